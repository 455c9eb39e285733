//! Options of the form `path=FILE,ro,id=NAME`: a comma separates, two commas are one in a value.

/// One part: a key with its value, or a bare word.
pub type Part = (String, Option<String>);

/// Splits `text` at single commas, and each part at its first `=`.
pub fn split(text: &str) -> Vec<Part> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
