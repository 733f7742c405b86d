//! Sans-IO decoders of the protocols that clients speak: octets and fds in, requests out, at any split.

pub mod vhost_user;
