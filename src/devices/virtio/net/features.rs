//! Which feature bits (virtio 1.3 §5.1.3) a tap makes possible, and what the driver's choice
//! means for the tap.

use virtio_bindings::virtio_net::*;

use super::tap::offload;

/// What the guest takes from the host: the bits of VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET
/// (§5.1.6.5.6).
pub const GUEST_OFFLOADS: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_GUEST_UFO
    | 1 << VIRTIO_NET_F_GUEST_USO4
    | 1 << VIRTIO_NET_F_GUEST_USO6;

/// Those of them by which packets get larger than the MTU.
pub const GUEST_LARGE: u64 = GUEST_OFFLOADS & !(1 << VIRTIO_NET_F_GUEST_CSUM);

/// Whether `features` has the bit.
pub fn has(features: u64, bit: u32) -> bool {
    features & 1 << bit != 0
}

/// What to offer to the driver for a tap with these offloads ([`offload`]).
pub fn offered(offloads: u32, mtu: bool, pairs: u16) -> u64 {
    let mut bits = vec![
        VIRTIO_NET_F_MAC,
        VIRTIO_NET_F_STATUS,
        VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_NET_F_CTRL_VQ,
        VIRTIO_NET_F_CTRL_RX,
        VIRTIO_NET_F_CTRL_RX_EXTRA,
        VIRTIO_NET_F_CTRL_MAC_ADDR,
        VIRTIO_NET_F_GUEST_ANNOUNCE,
    ];
    if offloads & offload::CSUM != 0 {
        bits.extend([
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_GUEST_ECN,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_ECN,
        ]);
    }
    if offloads & offload::UFO != 0 {
        bits.extend([VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_UFO]);
    }
    if offloads & offload::USO != 0 {
        bits.extend([
            VIRTIO_NET_F_GUEST_USO4,
            VIRTIO_NET_F_GUEST_USO6,
            VIRTIO_NET_F_HOST_USO,
        ]);
    }
    if mtu {
        bits.push(VIRTIO_NET_F_MTU);
    }
    if pairs > 1 {
        bits.push(VIRTIO_NET_F_MQ);
    }
    bits.into_iter().fold(0, |all, bit| all | 1 << bit)
}

/// What is left of that where vhost-net, which has the features `known`, moves the packets: it
/// filters none, so a driver must not be promised that.
pub fn by_vhost(offered: u64, known: u64) -> u64 {
    let filter = 1 << VIRTIO_NET_F_CTRL_RX | 1 << VIRTIO_NET_F_CTRL_RX_EXTRA;
    let mergeable = 1 << VIRTIO_NET_F_MRG_RXBUF;
    offered & !filter & !(mergeable & !known)
}

/// What a tap may leave to a guest with these features.
pub fn tap_offloads(features: u64) -> u32 {
    if !has(features, VIRTIO_NET_F_GUEST_CSUM) {
        return 0; // all others need it (§5.1.3.1)
    }
    let one = |bit, offload| if has(features, bit) { offload } else { 0 };
    let tcp =
        one(VIRTIO_NET_F_GUEST_TSO4, offload::TSO4) | one(VIRTIO_NET_F_GUEST_TSO6, offload::TSO6);
    // The kernel has one switch for both versions of IP, so both must be wanted.
    let uso = has(features, VIRTIO_NET_F_GUEST_USO4) && has(features, VIRTIO_NET_F_GUEST_USO6);
    offload::CSUM
        | tcp
        | one(
            VIRTIO_NET_F_GUEST_ECN,
            if tcp != 0 { offload::ECN } else { 0 },
        )
        | one(VIRTIO_NET_F_GUEST_UFO, offload::UFO)
        | if uso { offload::USO } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_need_checksums_and_both_versions_for_uso() {
        let bits = |bits: &[u32]| bits.iter().fold(0u64, |all, bit| all | 1 << bit);
        let tso4 = bits(&[VIRTIO_NET_F_GUEST_TSO4]);
        let csum = bits(&[VIRTIO_NET_F_GUEST_CSUM]);
        assert_eq!(tap_offloads(tso4), 0);
        assert_eq!(tap_offloads(tso4 | csum), offload::TSO4 | offload::CSUM);
        let uso4 = csum | bits(&[VIRTIO_NET_F_GUEST_USO4]);
        assert_eq!(tap_offloads(uso4), offload::CSUM);
        let uso = uso4 | bits(&[VIRTIO_NET_F_GUEST_USO6]);
        assert_eq!(tap_offloads(uso), offload::CSUM | offload::USO);
        let ecn = csum | bits(&[VIRTIO_NET_F_GUEST_ECN]);
        assert_eq!(tap_offloads(ecn), offload::CSUM);
        assert_eq!(tap_offloads(GUEST_OFFLOADS).count_ones(), 7);
    }

    #[test]
    fn what_the_tap_lacks_is_not_offered() {
        let plain = offered(0, false, 1);
        assert_eq!(plain & GUEST_OFFLOADS, 0);
        assert!(has(plain, VIRTIO_NET_F_MRG_RXBUF) && !has(plain, VIRTIO_NET_F_MQ));
        let old = offered(offload::CSUM | offload::TSO4, true, 2);
        assert!(has(old, VIRTIO_NET_F_HOST_TSO4) && !has(old, VIRTIO_NET_F_HOST_USO));
        assert!(has(old, VIRTIO_NET_F_MTU) && has(old, VIRTIO_NET_F_MQ));
    }
}
