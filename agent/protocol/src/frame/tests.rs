use super::*;
use crate::message::{Call, FromAgent, Request, Target};

fn call() -> Call {
    let target = Target::of("web", "1");
    Call {
        id: 7,
        request: Request::Signal {
            target,
            signal: 15,
            all: false,
        },
    }
}

#[test]
fn messages_come_through_in_any_pieces() {
    let bytes = encode(&call(), TO_AGENT).unwrap();
    let mut stream = [&bytes[..], &bytes].concat();
    let mut reader = stream.as_slice();
    assert_eq!(read::<Call>(&mut reader, TO_AGENT).unwrap(), call());
    assert_eq!(read::<Call>(&mut reader, TO_AGENT).unwrap(), call());
    let end = read::<Call>(&mut reader, TO_AGENT);
    assert!(matches!(end, Err(FrameError::End)));
    stream.extend(&bytes);
    for size in 1..stream.len() {
        let mut pieces = Pieces::default();
        let mut found = 0;
        for piece in stream.chunks(size) {
            pieces.add(piece);
            while let Some(message) = pieces.next::<Call>(TO_AGENT).unwrap() {
                assert_eq!(message, call());
                found += 1;
            }
        }
        assert_eq!(found, 3, "pieces of {size}");
    }
}

#[test]
fn a_length_is_held_to_its_bound_before_anything_is_read() {
    let long = u32::MAX.to_le_bytes();
    let error = read::<FromAgent>(&mut long.as_slice(), TO_HOST).unwrap_err();
    assert!(matches!(error, FrameError::Long(4_294_967_295, TO_HOST)));
    let mut pieces = Pieces::default();
    pieces.add(&long);
    assert!(pieces.next::<FromAgent>(TO_HOST).is_err());
    let what = "x".repeat(TO_HOST);
    assert!(matches!(encode(&what, TO_HOST), Err(FrameError::Long(..))));
}

#[test]
fn a_frame_that_is_cut_or_overfull_is_refused() {
    let bytes = encode(&call(), TO_AGENT).unwrap();
    for end in 1..bytes.len() {
        let error = read::<Call>(&mut &bytes[..end], TO_AGENT).unwrap_err();
        assert!(matches!(error, FrameError::Io(_)), "{end}: {error}");
    }
    let mut overfull = bytes.clone();
    overfull.push(0);
    overfull[0] += 1;
    let error = read::<Call>(&mut overfull.as_slice(), TO_AGENT).unwrap_err();
    assert!(matches!(error, FrameError::Content(_)), "{error}");
}

/// Each change of one byte, and each length of noise, is read or refused; a list can't claim more members than
/// there are bytes.
#[test]
fn noise_is_refused_and_takes_no_memory() {
    let bytes = encode(&call(), TO_AGENT).unwrap();
    for at in LENGTH..bytes.len() {
        for value in 0..=u8::MAX {
            let mut changed = bytes.clone();
            changed[at] = value;
            let _ = read::<Call>(&mut changed.as_slice(), TO_AGENT);
            let _ = read::<FromAgent>(&mut changed.as_slice(), TO_HOST);
        }
    }
    let mut state = 1u64;
    for length in 0..2000usize {
        let noise: Vec<u8> = (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let framed = [&(length as u32).to_le_bytes()[..], &noise].concat();
        let _ = read::<FromAgent>(&mut framed.as_slice(), TO_HOST);
        let _ = read::<Call>(&mut framed.as_slice(), TO_AGENT);
    }
}
