//! Files as KVM makes them, and as it never should.

use std::io::Write;

use super::*;

const NAME: usize = 48;

/// A file with these statistics: name, flags, offset into the data, values.
fn file(statistics: &[(&str, u32, u32, &[u64])]) -> Vec<u8> {
    let count = statistics.len();
    let descriptors_at = HEADER + NAME;
    let data_at = descriptors_at + count * (DESCRIPTOR + NAME);
    let header = [0, NAME, count, HEADER, descriptors_at, data_at];
    let mut bytes: Vec<u8> = header
        .iter()
        .flat_map(|word| (*word as u32).to_le_bytes())
        .collect();
    bytes.extend([b'i'; NAME]);
    let mut data = Vec::new();
    for (name, flags, at, values) in statistics {
        bytes.extend(flags.to_le_bytes());
        bytes.extend((-9i16).to_le_bytes());
        bytes.extend((values.len() as u16).to_le_bytes());
        bytes.extend(at.to_le_bytes());
        bytes.extend(7u32.to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.resize(bytes.len() + NAME - name.len(), 0);
        data.resize(data.len().max(*at as usize + values.len() * 8), 0);
        for (index, value) in values.iter().enumerate() {
            let at = *at as usize + index * 8;
            data[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes.extend(data);
    bytes
}

const USUAL: &[(&str, u32, u32, &[u64])] = &[
    ("halt_successful_poll", 0, 0, &[3]),
    // Time in nanoseconds: the unit isn't the type.
    ("halt_wait_hist", 0x24, 16, &[1, 2, 3, 4]),
    ("halt_wait_ns", 0x20, 8, &[u64::MAX]),
    ("blocking", 0x41, 48, &[1]),
    ("max_mmu_rmap_size", 2, 56, &[5]),
    ("linear", 3, 64, &[6, 7]),
];

fn put(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

#[test]
fn the_file_tells_names_kinds_and_values() {
    let bytes = file(USUAL);
    let layout = Layout::parse(&bytes).unwrap();
    let statistics = layout.values(&bytes[layout.data_at as usize..][..layout.data_len]);
    let kinds = [
        StatisticKind::Cumulative,
        StatisticKind::LogHistogram,
        StatisticKind::Cumulative,
        StatisticKind::Instant,
        StatisticKind::Peak,
        StatisticKind::LinearHistogram(7),
    ];
    assert_eq!(statistics.len(), USUAL.len());
    for ((found, (name, _, _, values)), kind) in statistics.iter().zip(USUAL).zip(kinds) {
        assert_eq!(found.name, *name);
        assert_eq!((found.kind, found.values.as_slice()), (kind, *values));
    }
}

#[test]
fn a_kind_of_a_later_kernel_is_left_out() {
    let layout = Layout::parse(&file(&[("a", 9, 0, &[1]), ("b", 0, 8, &[1])])).unwrap();
    assert_eq!(layout.descriptors.len(), 1);
    assert_eq!(layout.descriptors[0].name, "b");
}

#[test]
fn nothing_outside_of_the_file_is_believed() {
    let good = file(USUAL);
    let descriptor = HEADER + NAME;
    for (at, word) in [
        (0, 1),                              // flags
        (4, 0),                              // names of no length
        (4, u32::MAX),                       // or of all there is
        (8, 7),                              // one descriptor more
        (8, u32::MAX),                       // all of them
        (16, 0),                             // descriptors in the header
        (16, u32::MAX),                      // or nowhere
        (20, 23),                            // values in the header
        (20, u32::MAX),                      // or nowhere
        (descriptor + 4, 0),                 // a statistic with no value
        (descriptor + 4, 0xffff_0000),       // with 65535
        (descriptor + 8, u32::MAX),          // far away
        (descriptor + 8, 76),                // half outside
        (descriptor + DESCRIPTOR, 0),        // with no name
        (descriptor + DESCRIPTOR, u32::MAX), // with a strange one
    ] {
        let mut bytes = good.clone();
        put(&mut bytes, at, word);
        let error = Layout::parse(&bytes).unwrap_err();
        let malformed = matches!(error, StatisticsError::Malformed(_));
        assert!(malformed, "{at}: {word:#x}: {error}");
    }
    for len in 0..good.len() {
        assert!(Layout::parse(&good[..len]).is_err(), "{len}");
    }
}

#[test]
fn any_bytes_are_read_or_refused() {
    use proptest::prelude::*;
    proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..200),
                words in proptest::collection::vec(0u32..200, 6))| {
        let mut bytes = bytes;
        bytes.resize(bytes.len().max(HEADER), 0);
        let _ = Layout::parse(&bytes);
        for (index, word) in words.iter().enumerate().skip(1) {
            put(&mut bytes, index * 4, *word);
        }
        put(&mut bytes, 0, 0);
        if let Ok(layout) = Layout::parse(&bytes) {
            let data = &bytes[layout.data_at as usize..];
            prop_assert_eq!(layout.values(data).len(), layout.descriptors.len());
        }
    });
}

#[test]
fn a_file_is_read_to_its_end_and_no_further_than_is_sane() {
    let mut long = tempfile::tempfile().unwrap();
    long.write_all(&vec![1; 20_000]).unwrap();
    assert_eq!(read_all(&long).unwrap().len(), 20_000);
    long.set_len(MAX_FILE as u64 + 1).unwrap();
    assert!(matches!(
        read_all(&long).unwrap_err(),
        StatisticsError::Malformed(_)
    ));
}
