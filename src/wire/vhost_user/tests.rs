//! The decoder, request by request and at every split.

use std::fs::File;

use proptest::prelude::*;

use super::*;
use crate::ipc::RingAddr;

const U64: usize = 8;

fn fd() -> ForeignFd {
    std::os::fd::OwnedFd::from(File::open("/dev/null").unwrap()).into()
}

fn message(id: u32, flags: u32, payload: &[u8]) -> Vec<u8> {
    let words = [id, flags, payload.len() as u32];
    words.into_iter().flat_map(u32::to_ne_bytes).chain(payload.iter().copied()).collect()
}

fn longs(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// Feeds octets in pieces of at most `piece` octets. The fds come with the first piece.
fn feed(decoder: &mut Decoder, mut octets: &[u8], piece: usize, fds: usize) -> Result<Vec<Message>, Refuse> {
    let (mut messages, mut fds) = (Vec::new(), (0..fds).map(|_| fd()).collect::<Vec<_>>());
    while !octets.is_empty() {
        let space = decoder.space();
        let count = space.len().min(piece).min(octets.len());
        space[..count].copy_from_slice(&octets[..count]);
        octets = &octets[count..];
        messages.extend(decoder.advance(count, fds.drain(..))?);
    }
    Ok(messages)
}

fn decode(code: Code, payload: &[u8], fds: usize) -> Result<Request, Refuse> {
    let messages = feed(&mut Decoder::new(), &message(code.id(), 1, payload), usize::MAX, fds)?;
    Ok(messages.into_iter().next().expect("one message").request)
}

#[test]
fn requests_without_payload() {
    assert!(matches!(decode(Code::GET_FEATURES, &[], 0), Ok(Request::GetFeatures)));
    assert!(matches!(decode(Code::SET_OWNER, &[], 0), Ok(Request::SetOwner)));
    assert!(matches!(decode(Code::RESET_OWNER, &[], 0), Ok(Request::ResetOwner)));
    assert!(matches!(decode(Code::GET_PROTOCOL_FEATURES, &[], 0), Ok(Request::GetProtocolFeatures)));
    assert!(matches!(decode(Code::GET_QUEUE_NUM, &[], 0), Ok(Request::GetQueueNum)));
    assert!(matches!(decode(Code::RESET_DEVICE, &[], 0), Ok(Request::ResetDevice)));
    assert!(matches!(decode(Code::GET_MAX_MEM_SLOTS, &[], 0), Ok(Request::GetMaxMemSlots)));
    assert!(matches!(decode(Code::GET_STATUS, &[], 0), Ok(Request::GetStatus)));
}

/// "A single 64-bit integer"
#[test]
fn requests_with_a_u64() {
    let payload = longs(&[0x1_0000_0002]);
    assert!(matches!(decode(Code::SET_FEATURES, &payload, 0), Ok(Request::SetFeatures(0x1_0000_0002))));
    assert!(matches!(decode(Code::SET_PROTOCOL_FEATURES, &payload, 0), Ok(Request::SetProtocolFeatures(_))));
    assert!(matches!(decode(Code::NET_SET_MTU, &longs(&[1500]), 0), Ok(Request::NetSetMtu(1500))));
    assert!(matches!(decode(Code::SET_STATUS, &longs(&[15]), 0), Ok(Request::SetStatus(15))));
    let rarp = decode(Code::SEND_RARP, &[1, 2, 3, 4, 5, 6, 0, 0], 0);
    assert!(matches!(rarp, Ok(Request::SendRarp { mac: [1, 2, 3, 4, 5, 6] })));
}

/// "A vring state description: a 32-bit index, a 32-bit number"
#[test]
fn requests_with_a_vring_state() {
    let payload = words(&[3, 256]);
    assert!(matches!(decode(Code::SET_VRING_NUM, &payload, 0), Ok(Request::SetVringNum { ring: 3, num: 256 })));
    assert!(matches!(decode(Code::SET_VRING_BASE, &payload, 0), Ok(Request::SetVringBase { ring: 3, base: 256 })));
    assert!(matches!(decode(Code::GET_VRING_BASE, &payload, 0), Ok(Request::GetVringBase { ring: 3 })));
    assert!(matches!(
        decode(Code::SET_VRING_ENABLE, &words(&[31, 1]), 0),
        Ok(Request::SetVringEnable { ring: 31, num: 1 })
    ));
}

/// "A vring address description: index, flags, descriptor, used, available, log"
#[test]
fn a_vring_address_has_used_before_available() {
    let payload = [words(&[1, 1]), longs(&[0x1000, 0x3000, 0x2000, 0x4000])].concat();
    let addr = RingAddr { desc: 0x1000, avail: 0x2000, used: 0x3000 };
    let Ok(Request::SetVringAddr { ring: 1, flags: 1, addr: got, log }) = decode(Code::SET_VRING_ADDR, &payload, 0)
    else {
        panic!("not a vring address")
    };
    assert_eq!((got, log), (addr, 0x4000));
}

/// "mmap size, mmap offset"
#[test]
fn a_log_has_a_size_and_an_offset_and_a_file() {
    let payload = longs(&[0x2000, 0x1000]);
    let decoded = decode(Code::SET_LOG_BASE, &payload, 1);
    assert!(matches!(decoded, Ok(Request::SetLogBase { size: 0x2000, offset: 0x1000, .. })));
    decode(Code::SET_LOG_BASE, &payload, 0).unwrap_err();
    decode(Code::SET_LOG_BASE, &payload, 2).unwrap_err();
    assert!(matches!(decode(Code::SET_LOG_FD, &[], 1), Ok(Request::SetLogFd)));
    decode(Code::SET_LOG_FD, &[], 2).unwrap_err();
}

/// CVE-2020-10723: a ring index is an index into a table.
#[test]
fn a_ring_that_does_not_exist_is_refused_in_every_request() {
    for index in [32, 0x10000, u32::MAX] {
        for code in [Code::SET_VRING_NUM, Code::SET_VRING_BASE, Code::GET_VRING_BASE, Code::SET_VRING_ENABLE] {
            decode(code, &words(&[index, 0]), 0).unwrap_err();
        }
        decode(Code::SET_VRING_ADDR, &[words(&[index, 0]), longs(&[0; 4])].concat(), 0).unwrap_err();
        for code in [Code::SET_VRING_KICK, Code::SET_VRING_CALL, Code::SET_VRING_ERR] {
            decode(code, &longs(&[index.into()]), 1).unwrap_err();
        }
    }
}

/// "Bits (0-7) of the payload contain the vring index. Bit 8 is the invalid FD flag."
#[test]
fn the_invalid_fd_flag_decides_whether_an_fd_comes() {
    for code in [Code::SET_VRING_KICK, Code::SET_VRING_CALL, Code::SET_VRING_ERR] {
        decode(code, &longs(&[2]), 1).unwrap();
        decode(code, &longs(&[2 | 1 << 8]), 0).unwrap();
        decode(code, &longs(&[2]), 0).unwrap_err();
        decode(code, &longs(&[2 | 1 << 8]), 1).unwrap_err();
        decode(code, &longs(&[2]), 2).unwrap_err();
        decode(code, &longs(&[2 | 1 << 9]), 1).unwrap_err();
    }
}

/// "The size and ordering of the fds matches the number and ordering of memory regions."
#[test]
fn a_memory_table_has_as_many_fds_as_regions() {
    let region = longs(&[0x1000, 0x2000, 0x3000, 0x4000]);
    let table = |count: u32, regions: usize| [words(&[count, 0]), region.repeat(regions)].concat();
    let Ok(Request::SetMemTable(regions)) = decode(Code::SET_MEM_TABLE, &table(2, 2), 2) else { panic!("no table") };
    let wanted = MemoryRegion { guest_addr: 0x1000, size: 0x2000, user_addr: 0x3000, offset: 0x4000 };
    assert_eq!(regions.iter().map(|(region, _)| *region).collect::<Vec<_>>(), [wanted, wanted]);
    decode(Code::SET_MEM_TABLE, &table(8, 8), 8).unwrap();
    decode(Code::SET_MEM_TABLE, &table(9, 9), 8).unwrap_err();
    decode(Code::SET_MEM_TABLE, &table(2, 2), 1).unwrap_err();
    decode(Code::SET_MEM_TABLE, &table(2, 2), 3).unwrap_err();
    decode(Code::SET_MEM_TABLE, &table(2, 1), 2).unwrap_err();
    decode(Code::SET_MEM_TABLE, &table(u32::MAX, 1), 1).unwrap_err();
    decode(Code::SET_MEM_TABLE, &table(0, 0), 0).unwrap_err();
}

/// "Exactly one file descriptor"; on removal "If a file descriptor is passed, the back-end MUST close it".
#[test]
fn single_regions() {
    let payload = longs(&[0, 1, 2, 3, 4]);
    let wanted = MemoryRegion { guest_addr: 1, size: 2, user_addr: 3, offset: 4 };
    assert!(matches!(decode(Code::ADD_MEM_REG, &payload, 1), Ok(Request::AddMemReg(region, _)) if region == wanted));
    decode(Code::ADD_MEM_REG, &payload, 0).unwrap_err();
    decode(Code::ADD_MEM_REG, &payload, 2).unwrap_err();
    assert!(matches!(decode(Code::REM_MEM_REG, &payload, 0), Ok(Request::RemMemReg(region)) if region == wanted));
    decode(Code::REM_MEM_REG, &payload, 1).unwrap();
    decode(Code::REM_MEM_REG, &payload, 2).unwrap_err();
}

/// CVE-2020-10724 and CVE-2022-0669.
#[test]
fn a_wrong_size_and_fds_without_need_are_refused_in_every_request() {
    for id in 1..=43 {
        let code = Code::from_id(id).unwrap();
        let right: Vec<usize> = (0..=PAYLOAD_MAX).filter(|size| decode(code, &vec![0; *size], 0).is_ok()).collect();
        let served = right.iter().all(|size| !matches!(decode(code, &vec![0; *size], 0), Ok(Request::Unserved(_))));
        assert!(!served || right.len() <= 1, "{code} takes sizes {right:?}");
        let takes_fds = [Code::SET_MEM_TABLE, Code::ADD_MEM_REG, Code::REM_MEM_REG].contains(&code)
            || [Code::SET_VRING_KICK, Code::SET_VRING_CALL, Code::SET_VRING_ERR].contains(&code)
            || [Code::SET_LOG_BASE, Code::SET_LOG_FD].contains(&code);
        if served && !takes_fds {
            decode(code, &vec![0; right[0]], 1).unwrap_err();
        }
        decode(code, &vec![0; PAYLOAD_MAX + 1], 0).unwrap_err();
    }
}

#[test]
fn a_header_that_is_wrong_is_refused_before_its_payload_comes() {
    let refused = |id: u32, flags: u32, size: u32| {
        feed(&mut Decoder::new(), &words(&[id, flags, size]), usize::MAX, 0).unwrap_err().0
    };
    assert_eq!(refused(0, 1, 0), "unknown request 0");
    assert_eq!(refused(99, 1, 0), "unknown request 99");
    assert!(refused(1, 0, 0).contains("GET_FEATURES: flags 0x0"));
    assert!(refused(1, 2, 0).contains("flags 0x2"));
    assert!(refused(1, 5, 0).contains("reply"));
    assert!(refused(1, 0x11, 0).contains("flags 0x11"));
    assert_eq!(refused(2, 1, 7), "SET_FEATURES: a payload of 7 octets");
    assert_eq!(refused(5, 1, u32::MAX), "SET_MEM_TABLE: a payload of 4294967295 octets");
}

#[test]
fn a_ninth_fd_is_refused_wherever_it_comes() {
    assert!(feed(&mut Decoder::new(), &message(1, 1, &[]), 1, 9).is_err());
}

#[test]
fn what_is_not_offered_is_decoded_and_its_fds_are_closed() {
    let request = decode(Code::SET_INFLIGHT_FD, &[0; 16], 1).unwrap();
    assert!(matches!(request, Request::Unserved(Code::SET_INFLIGHT_FD)));
    assert_eq!(request.code().to_string(), "SET_INFLIGHT_FD");
}

#[test]
fn replies_carry_the_version_and_the_reply_flag() {
    assert_eq!(Reply::U64(Code::GET_FEATURES, 7).to_bytes(), message(1, 5, &longs(&[7])));
    assert_eq!(Reply::ack(Code::SET_MEM_TABLE, false).to_bytes(), message(5, 5, &longs(&[1])));
    assert_eq!(Reply::VringBase { ring: 1, base: 9 }.to_bytes(), message(11, 5, &words(&[1, 9])));
    assert_eq!(Reply::ack(Code::SET_OWNER, true).to_bytes().len(), HEADER_LEN + U64);
}

proptest! {
    /// The same requests come out, whatever the pieces.
    #[test]
    fn any_split_gives_the_same_requests(pieces in prop::collection::vec(1usize..20, 1..8)) {
        let stream = [
            message(3, 1, &[]),
            message(2, 9, &longs(&[1 << 32])),
            message(8, 1, &words(&[1, 256])),
            message(9, 1, &[words(&[1, 0]), longs(&[1, 2, 3, 4])].concat()),
            message(1, 1, &[]),
        ].concat();
        let mut decoder = Decoder::new();
        let (mut got, mut rest, mut pieces) = (Vec::new(), stream.as_slice(), pieces.into_iter().cycle());
        while !rest.is_empty() {
            let space = decoder.space();
            let count = pieces.next().unwrap().min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            got.extend(decoder.advance(count, []).unwrap());
        }
        let whole = feed(&mut Decoder::new(), &stream, usize::MAX, 0).unwrap();
        prop_assert_eq!(format!("{got:?}"), format!("{whole:?}"));
        prop_assert!(!decoder.is_amid_message());
    }

    /// For any octets, the decoder does not panic, and it always has space for at least one octet.
    #[test]
    fn no_octets_bring_the_decoder_down(octets in prop::collection::vec(any::<u8>(), 0..2000), id in 0u32..48) {
        let mut octets = octets;
        for (to, from) in octets.iter_mut().zip(words(&[id, 1])) {
            *to = from;
        }
        let mut decoder = Decoder::new();
        prop_assert!(!decoder.space().is_empty());
        if feed(&mut decoder, &octets, 64, 0).is_ok() {
            prop_assert!(!decoder.space().is_empty());
        }
    }
}
