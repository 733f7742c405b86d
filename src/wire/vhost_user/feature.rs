//! Protocol features, by the specification's names.

use crate::virtio::Feature;

macro_rules! protocol_features {
    ($($name:ident = $bit:literal, $doc:literal;)*) => {
        $(#[doc = $doc] pub const $name: Feature = Feature { bit: $bit, name: stringify!($name) };)*
        const KNOWN: &[Feature] = &[$($name),*];
    };
}

protocol_features! {
    VHOST_USER_PROTOCOL_F_MQ = 0, "Several queue pairs; `GET_QUEUE_NUM`.";
    VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1, "`SET_LOG_BASE` with a file.";
    VHOST_USER_PROTOCOL_F_RARP = 2, "`SEND_RARP`.";
    VHOST_USER_PROTOCOL_F_REPLY_ACK = 3, "Any request can ask for an acknowledgement.";
    VHOST_USER_PROTOCOL_F_NET_MTU = 4, "`NET_SET_MTU`.";
    VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13, "`RESET_DEVICE`.";
    VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15, "`GET_MAX_MEM_SLOTS`, `ADD_MEM_REG`, `REM_MEM_REG`.";
    VHOST_USER_PROTOCOL_F_STATUS = 16, "`SET_STATUS`, `GET_STATUS`.";
}

/// The protocol features that sv3 offers: all of the above.
pub const OFFERED_PROTOCOL_FEATURES: u64 = {
    let (mut mask, mut at) = (0, 0);
    while at < KNOWN.len() {
        mask |= KNOWN[at].mask();
        at += 1;
    }
    mask
};

/// The names of the offered protocol features set in `features`, in bit order.
pub fn protocol_feature_names(features: u64) -> Vec<String> {
    KNOWN.iter().filter(|known| known.of(features)).map(|known| known.name.to_string()).collect()
}
