//! A number of bytes, written with a unit as people write it: 128M, 2G, 1.5GiB.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes. K, M, G and T are powers of 1024, with or without `iB` or `B`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// A size in bytes.
    pub const fn new(bytes: u64) -> Self {
        Size(bytes)
    }

    /// A size in MiB.
    pub const fn mib(n: u64) -> Self {
        Size(n << 20)
    }

    /// A size in GiB.
    pub const fn gib(n: u64) -> Self {
        Size(n << 30)
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Binary units: for memory and disks, everyone in this field means 1024 by K.
        parse_size::Config::new()
            .with_binary()
            .parse_size(text)
            .map(Size)
            .map_err(|e| format!("`{text}` is not a size ({e}); write for example 128M or 2G"))
    }
}

impl fmt::Display for Size {
    /// The largest unit in which the number is whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        for (shift, unit) in units {
            if self.0 >> shift != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"128M\", or a number of bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes).map(Size).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_binary_and_come_back() {
        for (text, bytes, printed) in [
            ("128M", 128 << 20, "128M"),
            ("2G", 2 << 30, "2G"),
            ("1.5GiB", 3 << 29, "1536M"),
            ("4096", 4096, "4K"),
            ("1001", 1001, "1001"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.bytes(), bytes, "{text}");
            assert_eq!(size.to_string(), printed);
        }
    }

    #[test]
    fn nonsense_is_refused_with_an_example() {
        for text in ["", "M", "12Q", "-1", "99999999999T"] {
            assert!(text.parse::<Size>().unwrap_err().contains("128M"), "{text}");
        }
    }
}
