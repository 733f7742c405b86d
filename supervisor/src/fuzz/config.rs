//! Target `config`: the command line, and the address that metrics are served at.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use sv3::ipc::{Settings, VERSION};

use crate::args::Args;
use sv3::http::parse_address;

/// Octets: arguments, each ended by a zero.
pub fn config(octets: &[u8]) {
    let arguments = octets.split(|octet| *octet == 0).map(|argument| OsString::from_vec(argument.to_vec()));
    match Args::parse(arguments) {
        Ok(args) => {
            assert!([&args.socket, &args.control, &args.worker].iter().all(|path| path.is_absolute()));
            assert_ne!(args.socket, args.control);
            assert!((1..=Settings::MAX_BATCH).contains(&args.settings.batch) && args.settings.version == VERSION);
            assert!(args.metrics.is_none_or(|address| address.ip().to_canonical().is_loopback()));
            assert!(args.cpus.as_ref().is_none_or(|cpus| cpus.to_string().parse().as_ref() == Ok(cpus)));
            assert!(args.chaos.is_none_or(|time| (0.001..=86400.0).contains(&time.as_secs_f64())));
        }
        Err(why) => assert!(!why.is_empty()),
    }
    let text = String::from_utf8_lossy(octets);
    if let Ok(address) = parse_address(&text) {
        assert_eq!(parse_address(&address.to_string()), Ok(address));
    }
}
