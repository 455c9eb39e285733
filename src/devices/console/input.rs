//! Console input: bytes for the guest, and on a terminal the escape by which a user leaves.

/// Ctrl-A.
const ESCAPE: u8 = 1;

/// What input asks of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing: go on.
    None,
    /// Ctrl-A x: end the VM.
    Quit,
}

/// Takes the escape out of a stream of input: Ctrl-A x quits, Ctrl-A Ctrl-A is one Ctrl-A.
#[derive(Debug, Default)]
pub struct EscapeFilter {
    escaped: bool,
}

impl EscapeFilter {
    /// Removes escapes from `input`, in place.
    pub fn filter(&mut self, input: &mut Vec<u8>) -> Request {
        let mut request = Request::None;
        input.retain(|&byte| {
            let escaped = std::mem::replace(&mut self.escaped, false);
            match (escaped, byte) {
                (false, ESCAPE) => {
                    self.escaped = true;
                    false
                }
                (true, b'x' | b'X') => {
                    request = Request::Quit;
                    false
                }
                (true, ESCAPE) | (false, _) => true,
                (true, _) => false, // an unknown escape
            }
        });
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(parts: &[&[u8]]) -> (Vec<u8>, Request) {
        let mut filter = EscapeFilter::default();
        let (mut all, mut last) = (Vec::new(), Request::None);
        for part in parts {
            let mut part = part.to_vec();
            last = filter.filter(&mut part);
            all.extend(part);
        }
        (all, last)
    }

    #[test]
    fn escapes_are_taken_out_also_across_reads() {
        assert_eq!(
            filter(&[b"plain\x03"]),
            (b"plain\x03".to_vec(), Request::None)
        );
        assert_eq!(filter(&[b"ab\x01x"]), (b"ab".to_vec(), Request::Quit));
        assert_eq!(filter(&[b"a\x01", b"x"]), (b"a".to_vec(), Request::Quit));
        assert_eq!(
            filter(&[b"a\x01\x01b"]),
            (b"a\x01b".to_vec(), Request::None)
        );
        assert_eq!(filter(&[b"a\x01?b"]), (b"ab".to_vec(), Request::None));
    }
}
