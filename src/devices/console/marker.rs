//! A text that is waited for in what the guest prints.

use std::fmt;
use std::time::Instant;

/// Calls a function once the guest has printed a text, in whatever pieces.
pub struct Marker {
    text: Vec<u8>,
    /// The end of what was printed: at most one byte less than the text.
    tail: Vec<u8>,
    on_seen: Option<Box<dyn FnOnce(Instant) + Send>>,
}

impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Marker({:?})", String::from_utf8_lossy(&self.text))
    }
}

impl Marker {
    /// `on_seen` gets the time of the write that completed `text`; it runs on the vCPU's thread, or
    /// on that of the console device.
    pub fn new(text: &str, on_seen: impl FnOnce(Instant) + Send + 'static) -> Self {
        Marker {
            text: text.as_bytes().to_vec(),
            tail: Vec::with_capacity(2 * text.len()),
            on_seen: Some(Box::new(on_seen)),
        }
    }

    /// The guest prints this.
    pub fn look_at(&mut self, printed: &[u8]) {
        if self.on_seen.is_none() {
            return;
        }
        self.tail.extend_from_slice(printed);
        let length = self.text.len();
        if length == 0 || self.tail.windows(length).any(|part| part == self.text) {
            if let Some(on_seen) = self.on_seen.take() {
                on_seen(Instant::now());
            }
            self.tail = Vec::new();
            return;
        }
        let passed = self.tail.len().saturating_sub(length - 1);
        self.tail.drain(..passed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn seen(text: &str, printed: &[&str]) -> u32 {
        let count = Arc::new(AtomicU32::new(0));
        let counted = count.clone();
        let mut marker = Marker::new(text, move |_| {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        for part in printed {
            marker.look_at(part.as_bytes());
        }
        count.load(Ordering::Relaxed)
    }

    #[test]
    fn a_text_is_found_in_whatever_pieces_it_comes_and_once() {
        assert_eq!(seen("login:", &["l", "o", "g", "i", "n", ":", "login:"]), 1);
        assert_eq!(seen("login:", &["Debian\nlog", "in: "]), 1);
        assert_eq!(
            seen("aab", &["aa", "ab"]),
            1,
            "it begins inside a false start"
        );
        assert_eq!(seen("x", &["", "abcxabcx", "x"]), 1);
    }

    #[test]
    fn nothing_like_it_is_not_it() {
        assert_eq!(seen("login:", &["logi", "logn:", "n", "LOGIN:"]), 0);
    }
}
