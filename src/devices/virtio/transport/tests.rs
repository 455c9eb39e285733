use super::*;
use crate::devices::virtio::ActivateError;
use crate::devices::virtio::testing::*;
use arbitrary::{Arbitrary, Unstructured};
use proptest::prelude::*;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

/// Records what the transport does with it.
#[derive(Default)]
struct Seen {
    activations: AtomicU32,
    resets: AtomicU32,
    fail: std::sync::atomic::AtomicBool,
    last: Mutex<Option<Activation>>,
    config: Mutex<Vec<u8>>,
    /// Happens right after the configuration was read, once.
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

struct Dummy(Arc<Seen>);

const FEATURES: u64 = 1 << 3 | 1 << 50;

impl VirtioDevice for Dummy {
    fn name(&self) -> &str {
        "dummy"
    }
    fn device_type(&self) -> u32 {
        42
    }
    fn features(&self) -> u64 {
        FEATURES
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256, 16]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        crate::devices::virtio::read_config_bytes(&self.0.config.lock().unwrap(), offset, data);
        let then = self.0.then.lock().unwrap().take();
        if let Some(then) = then {
            then();
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let Some(place) = self.0.config.lock().unwrap().get_mut(offset as usize) {
            *place = data[0];
        }
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        self.0.activations.fetch_add(1, Ordering::SeqCst);
        if self.0.fail.load(Ordering::SeqCst) {
            return Err(ActivateError::Thread {
                name: "x".into(),
                source: io::Error::other("test"),
            });
        }
        *self.0.last.lock().unwrap() = Some(activation);
        Ok(())
    }
    fn reset(&mut self) {
        self.0.resets.fetch_add(1, Ordering::SeqCst);
        *self.0.last.lock().unwrap() = None;
    }
}

fn dummy() -> (FakeGuest, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    *seen.config.lock().unwrap() = (1..=10).collect();
    (FakeGuest::new(Dummy(seen.clone())), seen)
}

fn interrupt(seen: &Seen) -> Arc<Interrupt> {
    let last = seen.last.lock().unwrap();
    last.as_ref().unwrap().interrupt.clone()
}

fn activations(seen: &Seen) -> u32 {
    seen.activations.load(Ordering::SeqCst)
}

#[test]
fn identifies_itself() {
    let (mut guest, _) = dummy();
    assert_eq!([0, 4, 8, 12].map(|r| guest.get(r)), [MAGIC, 2, 42, VENDOR]);
    assert_eq!(guest.offered(), FEATURES | RING_FEATURES);
    guest.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(guest.get(VIRTIO_MMIO_DEVICE_FEATURES), 0);
    for register in [0xb0, 0xb4, 0xb8, 0xbc] {
        guest.set(VIRTIO_MMIO_SHM_SEL, 0);
        assert_eq!(guest.get(register), !0);
    }
    assert!(!guest.transport.driver_ok());
}

#[test]
fn good_manners_lead_to_activation() {
    let (mut guest, seen) = dummy();
    let queues = guest.start(1 << 3 | EVENT_IDX);
    assert_eq!(guest.status(), DRIVER_OK);
    assert!(guest.transport.driver_ok());
    {
        let last = seen.last.lock().unwrap();
        let activation = last.as_ref().unwrap();
        assert_eq!(activation.features, 1 << 3 | EVENT_IDX | VERSION_1);
        use virtio_queue::QueueT;
        let sizes: Vec<_> = activation
            .queues
            .iter()
            .map(|q| (q.index, q.queue.size()))
            .collect();
        assert_eq!(sizes, [(0, 256), (1, 16)]);
        assert_eq!(activation.queues[1].queue.used_ring(), queues[1].used);
        guest.transport.write(0x50, &1u32.to_le_bytes());
        assert_eq!(activation.queues[1].notify.read().unwrap(), 1);
        activation.interrupt.used_buffers();
    }
    // The bit for used buffers stays, whatever the driver acknowledges.
    assert_eq!(guest.wait_interrupt(), VIRTIO_MMIO_INT_VRING);
    assert_eq!(
        guest.get(VIRTIO_MMIO_INTERRUPT_STATUS),
        VIRTIO_MMIO_INT_VRING
    );
    // Writing the same again changes nothing, and neither does setting DRIVER_OK again.
    guest.set(VIRTIO_MMIO_STATUS, DRIVER_OK);
    guest.set(VIRTIO_MMIO_STATUS, DRIVER_OK);
    assert_eq!((activations(&seen), guest.status()), (1, DRIVER_OK));
    guest.set(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(seen.resets.load(Ordering::SeqCst), 1);
    guest.start(0);
    assert_eq!(activations(&seen), 2);
    assert!(guest.transport.driver_ok());
    drop(guest);
    assert_eq!(seen.resets.load(Ordering::SeqCst), 2);
}

#[test]
fn queues_may_be_left_alone() {
    let (mut guest, seen) = dummy();
    guest.negotiate(0);
    let queue = guest.queue(1, 8, false);
    guest.set_up(&queue);
    guest.set(VIRTIO_MMIO_STATUS, DRIVER_OK);
    let last = seen.last.lock().unwrap();
    let indexes: Vec<_> = last
        .as_ref()
        .unwrap()
        .queues
        .iter()
        .map(|q| q.index)
        .collect();
    assert_eq!(indexes, [1]);
}

#[test]
fn features_that_are_not_offered_are_refused() {
    for (low, high, beyond) in [
        (1u64 << 4, 1u64, 0u32),
        (0, 1 | 1 << 30, 0),
        (1 << 3, 0, 0), // legacy: no VERSION_1
        (0, 1, 1),
        (0, 1 << 2, 0), // packed rings
    ] {
        let (mut guest, seen) = dummy();
        guest.set(VIRTIO_MMIO_STATUS, 1);
        guest.set(VIRTIO_MMIO_STATUS, 3);
        guest.accept(low | high << 32);
        guest.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
        guest.set(VIRTIO_MMIO_DRIVER_FEATURES, beyond);
        guest.set(VIRTIO_MMIO_STATUS, FEATURES_OK);
        assert_eq!(guest.status(), 3);
        guest.set(VIRTIO_MMIO_STATUS, DRIVER_OK);
        assert_eq!((guest.status(), activations(&seen)), (3, 0));
        // A better choice is still possible.
        if beyond == 0 {
            guest.accept(VERSION_1);
            guest.set(VIRTIO_MMIO_STATUS, FEATURES_OK);
            assert_eq!(guest.status(), FEATURES_OK);
        }
    }
}

#[test]
fn steps_out_of_order_have_no_effect() {
    let (mut guest, seen) = dummy();
    // Features before DRIVER, queues before FEATURES_OK, FEATURES_OK before DRIVER.
    guest.accept(VERSION_1);
    let queue = guest.queue(0, 8, false);
    guest.set_up(&queue);
    assert_eq!(guest.get(VIRTIO_MMIO_QUEUE_READY), 0);
    guest.set(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_FEATURES_OK);
    assert_eq!(guest.status(), 0);
    // All at once: DRIVER_OK needs a driver that has seen FEATURES_OK.
    guest.set(VIRTIO_MMIO_STATUS, 3);
    guest.accept(VERSION_1);
    guest.set(VIRTIO_MMIO_STATUS, DRIVER_OK);
    assert_eq!((guest.status(), activations(&seen)), (FEATURES_OK, 0));
    // Features are settled now.
    guest.accept(VERSION_1 | FEATURES);
    // A bit can't be cleared, nor a device's own bit be set.
    guest.set(VIRTIO_MMIO_STATUS, 1);
    guest.set(VIRTIO_MMIO_STATUS, FEATURES_OK | NEEDS_RESET);
    assert_eq!(guest.status(), FEATURES_OK);
    guest.set_up(&queue);
    assert_eq!(guest.get(VIRTIO_MMIO_QUEUE_READY), 1);
    guest.set(VIRTIO_MMIO_QUEUE_NUM, 3);
    guest.set(VIRTIO_MMIO_STATUS, DRIVER_OK);
    {
        let last = seen.last.lock().unwrap();
        assert_eq!(last.as_ref().unwrap().features, VERSION_1);
        assert_eq!(last.as_ref().unwrap().queues.len(), 1);
    }
    // Live queues can be stopped (Linux's pmem driver does, before it resets the device), and not be changed.
    guest.set(VIRTIO_MMIO_QUEUE_NUM, 4);
    guest.set(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(guest.get(VIRTIO_MMIO_QUEUE_READY), 0);
    assert!(seen.last.lock().unwrap().is_none(), "it is still at work");
    guest.set(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(guest.get(VIRTIO_MMIO_QUEUE_READY), 0);
    // Notifications for queues that aren't there go nowhere.
    guest.set(VIRTIO_MMIO_QUEUE_NOTIFY, 2);
    guest.set(VIRTIO_MMIO_QUEUE_NOTIFY, !0);
    guest.set(VIRTIO_MMIO_STATUS, DRIVER_OK | VIRTIO_CONFIG_S_FAILED);
    assert_eq!(guest.status(), DRIVER_OK | VIRTIO_CONFIG_S_FAILED);
    guest.set(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(guest.status(), 0);
}

#[test]
fn failed_is_final_until_reset() {
    let (mut guest, seen) = dummy();
    guest.set(VIRTIO_MMIO_STATUS, 3);
    guest.set(VIRTIO_MMIO_STATUS, 3 | VIRTIO_CONFIG_S_FAILED);
    guest.accept(VERSION_1);
    guest.set(VIRTIO_MMIO_STATUS, FEATURES_OK | VIRTIO_CONFIG_S_FAILED);
    assert_eq!(guest.status(), 3 | VIRTIO_CONFIG_S_FAILED);
    // Nor is there anything to be set up, however far the driver had come.
    guest.negotiate(0);
    guest.set(VIRTIO_MMIO_STATUS, FEATURES_OK | VIRTIO_CONFIG_S_FAILED);
    let queue = guest.queue(0, 16, false);
    guest.set_up(&queue);
    assert_eq!(guest.get(VIRTIO_MMIO_QUEUE_READY), 0);
    guest.start(0);
    assert_eq!((guest.status(), activations(&seen)), (DRIVER_OK, 1));
}

#[test]
fn queues_that_can_not_work_fail_the_device() {
    type Spoil = fn(&mut DriverQueue);
    let cases: [(&str, Spoil); 13] = [
        ("size 0", |q| q.size = 0),
        ("size not a power of two", |q| q.size = 7),
        ("size beyond the maximum", |q| q.size = 512),
        ("descriptors nowhere", |q| q.descriptors = NOWHERE),
        ("available nowhere", |q| q.available = NOWHERE),
        ("used nowhere", |q| q.used = NOWHERE),
        ("descriptors half out of memory", |q| {
            q.descriptors = (32 << 20) - 16
        }),
        ("used half out of memory", |q| q.used = (32 << 20) - 8),
        ("wraps around", |q| q.descriptors = u64::MAX - 15),
        ("descriptors misaligned", |q| q.descriptors += 8),
        ("available misaligned", |q| q.available += 1),
        ("used misaligned", |q| q.used += 2),
        ("available at 0", |q| q.available = 0),
    ];
    for (what, spoil) in cases {
        let (mut guest, seen) = dummy();
        guest.negotiate(EVENT_IDX);
        let mut queue = guest.queue(0, 16, true);
        spoil(&mut queue);
        guest.set_up(&queue);
        assert_eq!(guest.get(VIRTIO_MMIO_QUEUE_READY), 0, "{what}");
        assert_eq!(guest.status(), FEATURES_OK | NEEDS_RESET, "{what}");
        guest.set(VIRTIO_MMIO_STATUS, DRIVER_OK);
        assert_eq!(activations(&seen), 0, "{what}");
        guest.start(EVENT_IDX);
        assert_eq!(
            (guest.status(), activations(&seen)),
            (DRIVER_OK, 1),
            "{what}"
        );
    }
    // 0x10010: the low half alone would be fine.
    let (mut guest, _) = dummy();
    guest.negotiate(0);
    let queue = guest.queue(0, 16, false);
    guest.set_up(&queue);
    guest.set(VIRTIO_MMIO_QUEUE_READY, 0);
    guest.set(VIRTIO_MMIO_QUEUE_NUM, 0x10010);
    guest.set(VIRTIO_MMIO_QUEUE_READY, 1);
    assert_eq!(guest.status(), FEATURES_OK | NEEDS_RESET);
}

#[test]
fn queues_that_are_not_there_have_no_registers() {
    let (mut guest, _) = dummy();
    guest.negotiate(0);
    for sel in [2, 0xffff_ffff] {
        guest.set(VIRTIO_MMIO_QUEUE_SEL, sel);
        assert_eq!(guest.get(VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
        guest.set(VIRTIO_MMIO_QUEUE_NUM, 8);
        guest.set(VIRTIO_MMIO_QUEUE_READY, 1);
        assert_eq!(guest.get(VIRTIO_MMIO_QUEUE_READY), 0);
    }
    assert_eq!(guest.status(), FEATURES_OK);
}

#[test]
fn registers_are_written_in_32_bits_and_the_configuration_space_in_any() {
    let (mut guest, _) = dummy();
    // To be read in any width, as a page of memory is.
    for (offset, bytes) in [
        (0, b"v".as_slice()),
        (2, b"rt\x02\0"),
        (0xfe, &[0, 0, 1, 2]),
        (0xffff_ffff_ffff_fffe, &[0, 0, 0, 0]),
        (0, &[]),
    ] {
        let mut data = vec![0x55; bytes.len()];
        guest.transport.read(offset, &mut data);
        assert_eq!(data, bytes, "{offset:#x}");
    }
    guest.transport.write(0x70, &[1]);
    guest.transport.write(0x70, &[1, 0, 0, 0, 0, 0, 0, 0]);
    guest.transport.write(0x71, &[1, 0, 0, 0]);
    guest.transport.write(0x70, &[]);
    assert_eq!(guest.status(), 0);

    assert_eq!(guest.config(0), [1]);
    assert_eq!(guest.config(1), [2, 3]);
    assert_eq!(guest.config(1), [2, 3, 4, 5]);
    assert_eq!(guest.config(0), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(guest.config(8), [9, 10, 0, 0]);
    assert_eq!(guest.config(10), [0]);
    assert_eq!(guest.config(0xffff_ffff_0000), [0]);
    // To be read at any time, to be written by a driver.
    guest.transport.write(0x100, &[7]);
    assert_eq!(guest.config(0), [1]);
    guest.set(VIRTIO_MMIO_STATUS, 3);
    guest.transport.write(0x100, &[7]);
    assert_eq!(guest.config(0), [7]);
}

#[test]
fn a_changed_configuration_has_a_new_generation() {
    let (mut guest, seen) = dummy();
    guest.start(0);
    let before = guest.get(VIRTIO_MMIO_CONFIG_GENERATION);
    assert_eq!(guest.get(VIRTIO_MMIO_CONFIG_GENERATION), before);
    let interrupt = interrupt(&seen);
    {
        let mut config = seen.config.lock().unwrap();
        config[0] = 99;
        interrupt.set_config(0, &config[..1]);
    }
    let both = VIRTIO_MMIO_INT_CONFIG | VIRTIO_MMIO_INT_VRING;
    assert_eq!(guest.wait_interrupt(), both);
    assert_eq!(
        guest.get(VIRTIO_MMIO_INTERRUPT_STATUS),
        VIRTIO_MMIO_INT_VRING
    );
    assert_ne!(guest.get(VIRTIO_MMIO_CONFIG_GENERATION), before);
    assert_eq!(guest.config(0), [99]);
}

#[test]
fn a_device_that_can_not_start_needs_a_reset() {
    let (mut guest, seen) = dummy();
    seen.fail.store(true, Ordering::SeqCst);
    guest.start(0);
    guest.expect_failure();
    assert!(!guest.transport.driver_ok());
    seen.fail.store(false, Ordering::SeqCst);
    guest.start(0);
    assert_eq!(guest.status(), DRIVER_OK);
    assert_eq!(seen.resets.load(Ordering::SeqCst), 1);
}

#[test]
fn a_device_failure_is_told_and_undone_by_reset() {
    let (mut guest, seen) = dummy();
    guest.start(0);
    let interrupt = interrupt(&seen);
    interrupt.fail(&"test");
    guest.expect_failure();
    guest.set(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(
        (guest.status(), guest.get(VIRTIO_MMIO_INTERRUPT_STATUS)),
        (0, 0)
    );
    // A thread of the device that comes late says nothing to a driver that has gone.
    interrupt.used_buffers();
    assert!(guest.irq.read().is_err());
}

#[test]
fn a_change_of_the_hosts_is_not_lost_while_the_driver_writes() {
    let (mut guest, seen) = dummy();
    guest.start(0);
    let interrupt = interrupt(&seen);
    let hosts = seen.clone();
    *seen.then.lock().unwrap() = Some(Box::new(move || {
        hosts.config.lock().unwrap()[2] = 77;
        interrupt.set_config(2, &[77]);
    }));
    let config = u64::from(VIRTIO_MMIO_CONFIG);
    guest.transport.write(config, &[55, 0, 0, 0]);
    assert_eq!(guest.config(0), [55, 2, 77, 4]);
}

/// Bytes out of which [`model::Access`]es are made, with the right steps more often than chance has them.
fn accesses() -> impl Strategy<Value = Vec<model::Access>> {
    let any = prop::collection::vec(any::<u8>(), 40)
        .prop_map(|bytes| model::Access::arbitrary(&mut Unstructured::new(&bytes)).unwrap());
    let status = (0..256u32).prop_map(|value| model::Access::Set(model::Register::Status, value));
    let step = prop_oneof![5 => any, 2 => Just(model::Access::Onward), 1 => status];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn any_accesses_leave_the_registers_as_virtio_says(accesses in accesses()) {
        let mut pair = model::Pair::new();
        for access in &accesses {
            pair.access(access);
        }
    }
}
