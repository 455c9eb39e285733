//! The real-time clock of Arm's boards (PL031, DDI 0224): seconds since 1970. Its alarm never rings.

use vm_superio::Rtc;
use vm_superio::rtc_pl031::NoEvents;

use crate::bus::BusDevice;

/// A PL031 whose time is the host's.
#[derive(Default)]
pub struct RealTimeClock(Rtc<NoEvents>);

impl BusDevice for RealTimeClock {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        // Its registers are 32 bits wide; other widths have no meaning.
        if let (Ok(offset), Ok(word)) = (offset.try_into(), data.try_into()) {
            self.0.read(offset, word);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (Ok(offset), Ok(word)) = (offset.try_into(), data.try_into()) {
            self.0.write(offset, word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    fn now() -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    }

    fn read(rtc: &mut RealTimeClock, offset: u64) -> u32 {
        let mut data = [0xaa; 4];
        rtc.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn it_tells_the_hosts_time_until_the_guest_sets_it() {
        let mut rtc = RealTimeClock::default();
        let before = now();
        let told = u64::from(read(&mut rtc, 0));
        assert!((before..=now()).contains(&told));
        rtc.write(8, &1000u32.to_le_bytes()); // RTCLR
        assert!((1000..1100).contains(&read(&mut rtc, 0)));
    }

    #[test]
    fn linux_finds_its_driver_by_the_ids() {
        let mut rtc = RealTimeClock::default();
        let ids: Vec<_> = (0..8).map(|n| read(&mut rtc, 0xfe0 + n * 4)).collect();
        assert_eq!(ids, [0x31, 0x10, 4, 0, 0xd, 0xf0, 5, 0xb1]);
    }

    #[test]
    fn accesses_of_no_meaning_read_zero_and_change_nothing() {
        let mut rtc = RealTimeClock::default();
        for offset in (0..0x1010).chain([u64::MAX]) {
            for width in [1, 2, 3, 8] {
                let mut data = vec![0xaa; width];
                rtc.read(offset, &mut data);
                assert_eq!(data, vec![0; width]);
                rtc.write(offset, &data);
            }
            rtc.write(offset, &[0xff; 4]);
            read(&mut rtc, offset);
        }
    }
}
