//! Options of the form `path=FILE,ro,id=NAME`, read by serde straight into a configuration struct:
//! what a TOML file can say of a device, its option can say in the same words.
//!
//! A comma separates, two commas are one in a value. A bare word is a switch that is on, or, if it
//! comes first, the value of the key that the option is about.

use serde::de::value::{Error, MapDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

/// One part: a key with its value, or a bare word.
type Part = (String, Option<String>);

/// Reads an option's text. `bare_key` is the key that a first bare word is the value of.
///
/// # Errors
///
/// A key that isn't known, given twice or missing, or a value that isn't one.
pub fn parse<T: DeserializeOwned>(text: &str, bare_key: Option<&str>) -> Result<T, String> {
    let mut parts = split(text);
    if let (Some(key), Some(first)) = (bare_key, parts.first_mut())
        && first.1.is_none()
        && !first.0.is_empty()
    {
        *first = (key.to_owned(), Some(std::mem::take(&mut first.0)));
    }
    // A descriptor in place of a bare path (`motevm::handed`), which looks like a key itself.
    if let (Some(key @ "path"), Some(first)) = (bare_key, parts.first_mut())
        && first.0 == "fd"
        && let Some(number) = &mut first.1
    {
        number.insert_str(0, "fd=");
        key.clone_into(&mut first.0);
    }
    // Numbers where keys should be: most likely a list in a value.
    let is_list = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-'));
    let hint = match parts
        .iter()
        .any(|(key, value)| value.is_none() && is_list(key))
    {
        true => "; a comma in a value is written as two",
        false => "",
    };
    for (index, (key, value)) in parts.iter().enumerate() {
        if key.is_empty() {
            return Err(
                "nothing stands before a comma, after it or before =; leave it out".to_owned(),
            );
        }
        if parts[..index].iter().any(|(other, _)| other == key) {
            return Err(format!("`{key}` is given twice"));
        }
        if value.as_deref() == Some("") {
            return Err(format!("`{key}=` has no value"));
        }
    }
    let parts = parts.into_iter().map(|(key, value)| {
        let value = Value {
            key: key.clone(),
            text: value,
        };
        (key, value)
    });
    T::deserialize(MapDeserializer::<_, Error>::new(parts)).map_err(|e| {
        // serde speaks of structs and enums, the user of keys and their values.
        let text = e.to_string().replace("missing field", "missing");
        let text = text.replace("unknown field", "unknown key");
        text.replace("unknown variant", "unknown value") + hint
    })
}

/// Splits `text` at single commas, and each part at its first `=`.
fn split(text: &str) -> Vec<Part> {
    let mut parts = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            ',' if rest.next_if_eq(&',').is_some() => push(&mut parts, ','),
            ',' => parts.push(String::new()),
            c => push(&mut parts, c),
        }
    }
    let pair = |part: String| match part.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (part, None),
    };
    parts.into_iter().map(pair).collect()
}

fn push(parts: &mut [String], c: char) {
    if let Some(last) = parts.last_mut() {
        last.push(c);
    }
}

/// A value as it was written; what it is to be, the struct's field says.
struct Value {
    key: String,
    text: Option<String>,
}

impl Value {
    fn text(self) -> Result<String, Error> {
        let key = self.key;
        self.text.ok_or_else(|| {
            serde::de::Error::custom(format_args!("`{key}` needs a value: {key}=..."))
        })
    }

    fn number<T: std::str::FromStr>(self) -> Result<T, Error> {
        let key = self.key.clone();
        let text = self.text()?;
        text.parse().map_err(|_| {
            serde::de::Error::custom(format_args!("{key}={text}: not a number that fits here"))
        })
    }
}

/// Names the key in an error that its value's type has made.
fn named<T>(key: String, result: Result<T, Error>) -> Result<T, Error> {
    result.map_err(|e| serde::de::Error::custom(format_args!("{key}: {e}")))
}

macro_rules! numbers {
    ($($method:ident $visit:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.number()?)
        }
    )*};
}

impl<'de> serde::Deserializer<'de> for Value {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let key = self.key.clone();
        let text = self.text()?;
        named(key, visitor.visit_string(text))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.text.as_deref() {
            None | Some("on" | "true") => visitor.visit_bool(true),
            Some("off" | "false") => visitor.visit_bool(false),
            Some(other) => {
                let message = format!("{}={other}: must be on or off", self.key);
                Err(serde::de::Error::custom(message))
            }
        }
    }

    numbers! {
        deserialize_i8 visit_i8 deserialize_i16 visit_i16
        deserialize_i32 visit_i32 deserialize_i64 visit_i64
        deserialize_u8 visit_u8 deserialize_u16 visit_u16
        deserialize_u32 visit_u32 deserialize_u64 visit_u64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let key = self.key.clone();
        let text = self.text()?;
        let variant: serde::de::value::StringDeserializer<Error> = text.into_deserializer();
        named(key, visitor.visit_enum(variant))
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        map struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, Error> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motevm::config::Size;
    use serde::Deserialize;
    use std::path::PathBuf;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Thing {
        path: PathBuf,
        #[serde(default, rename = "ro")]
        read_only: bool,
        #[serde(default)]
        how_many: Option<u16>,
        #[serde(default)]
        size: Size,
        #[serde(default)]
        color: Option<Color>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "lowercase")]
    enum Color {
        Red,
    }

    fn thing(text: &str) -> Result<Thing, String> {
        parse(text, Some("path"))
    }

    #[test]
    fn commas_separate_and_double_commas_do_not() {
        let part = |k: &str, v: Option<&str>| (k.to_owned(), v.map(str::to_owned));
        assert_eq!(split("a.img,ro"), [part("a.img", None), part("ro", None)]);
        assert_eq!(
            split("path=a,,b=c,id=x"),
            [part("path", Some("a,b=c")), part("id", Some("x"))]
        );
        assert_eq!(split(""), [part("", None)]);
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let expected = Thing {
            path: "a,b".into(),
            read_only: true,
            how_many: Some(7),
            size: Size::mib(3),
            color: Some(Color::Red),
        };
        assert_eq!(
            thing("a,,b,ro,how-many=7,size=3M,color=red").unwrap(),
            expected
        );
        let off = thing("ro=off,path=a,,b").unwrap();
        assert!(!off.read_only && off.path.as_os_str() == "a,b");
        assert_eq!(thing("fd=5,ro").unwrap().path, PathBuf::from("fd=5"));
        assert_eq!(thing("path=fd=5,ro").unwrap().path, PathBuf::from("fd=5"));
        // Whatever the first word is.
        assert_eq!(thing("ro").unwrap().path, PathBuf::from("ro"));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("", "nothing stands before"),
            (
                "x,colour=red",
                "unknown key `colour`, expected one of `path`, `ro`",
            ),
            ("x,color=blue", "color: unknown value `blue`"),
            ("x,how-many=70000", "how-many=70000: not a number that fits"),
            ("x,how-many", "`how-many` needs a value"),
            ("x,size=lots", "size: `lots` is not a size"),
            ("x,ro=maybe", "ro=maybe: must be on or off"),
            ("x,path=y", "`path` is given twice"),
            ("path=", "`path=` has no value"),
            ("path=x,ro,", "nothing stands before"),
            ("path=x,0,1", "a comma in a value is written as two"),
            ("size=1M", "missing `path`"),
        ] {
            let error = thing(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
