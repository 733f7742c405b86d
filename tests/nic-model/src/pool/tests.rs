//! Messages and what they grant.

use super::*;

const MAC: [u8; 6] = [2, 1, 2, 3, 4, 5];

fn ask(pool: &mut Pool, words: &[u32]) -> Message {
    let mut message = [0; WORDS];
    message[..words.len()].copy_from_slice(words);
    pool.answer(&message, true)
}

fn pool(settings: VfSettings) -> Pool {
    let mut it = Pool::new(settings, VfModel::Ixgbe);
    ask(&mut it, &[request::RESET]);
    it
}

#[test]
fn a_reset_comes_first() {
    let mut it = Pool::new(VfSettings { mac: Some(MAC), ..VfSettings::default() }, VfModel::Ixgbe);
    assert_eq!(ask(&mut it, &[request::API_NEGOTIATE, 3])[0], request::API_NEGOTIATE | FAILURE);
    assert_eq!(ask(&mut it, &[request::RESET])[..4], [request::RESET | SUCCESS, 0x0302_0102, 0x0504, 0]);
    assert_eq!(ask(&mut it, &[request::API_NEGOTIATE, 3])[0], request::API_NEGOTIATE | SUCCESS | CTS);
}

#[test]
fn a_function_without_an_address_is_refused_and_may_choose_one() {
    let mut it = Pool::new(VfSettings { mac: None, ..VfSettings::default() }, VfModel::Ixgbe);
    assert_eq!(ask(&mut it, &[request::RESET])[..3], [request::RESET | FAILURE, 0, 0]);
    assert_eq!(ask(&mut it, &[request::SET_MAC, 0x0302_0102, 0x0504])[0] & 0xC000_0000, SUCCESS);
    assert_eq!(it.mac, MAC);
}

#[test]
fn versions_are_those_that_are_known() {
    let mut it = pool(VfSettings { api: 6, ..VfSettings::default() });
    let known = [0, 1, 2, 3, 4, 5, 6, 7].map(|api| ask(&mut it, &[request::API_NEGOTIATE, api])[0] & SUCCESS != 0);
    assert_eq!(known, [true, false, true, true, true, true, true, false]);
}

#[test]
fn filters_run_out_and_need_trust() {
    let settings = VfSettings { mac: Some(MAC), trusted: true, filters: 2, ..VfSettings::default() };
    let mut it = pool(settings);
    let add = |pool: &mut Pool, index: u32| ask(pool, &[request::SET_MACVLAN | index << 16, 2 + (index << 8), 0])[0];
    assert_eq!([1, 2, 3].map(|index| add(&mut it, index) & SUCCESS != 0), [true, true, false]);
    let mut frame = [0; 60];
    frame[..2].copy_from_slice(&[2, 2]);
    assert!(it.takes(&frame, None));
    ask(&mut it, &[request::SET_MACVLAN]);
    assert!(!it.takes(&frame, None));
    assert_ne!(add(&mut pool(VfSettings { trusted: false, ..settings }), 1) & FAILURE, 0);
}

#[test]
fn groups_pass_by_hash_or_all_of_them_with_trust() {
    let settings = VfSettings { mac: Some(MAC), api: 6, ..VfSettings::default() };
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0x12, 0x34]);
    let mut it = pool(settings);
    assert!(!it.takes(&frame, None));
    ask(&mut it, &[request::SET_MULTICAST | 1 << 16, 0x341]);
    assert!(it.takes(&frame, None));
    for (trusted, expected) in [(false, XCAST_MULTI), (true, XCAST_ALL)] {
        let mut it = pool(VfSettings { trusted, ..settings });
        ask(&mut it, &[request::API_NEGOTIATE, 4]);
        assert_eq!(ask(&mut it, &[request::UPDATE_XCAST, XCAST_ALL])[1], expected);
        assert_eq!(it.takes(&frame, None), trusted);
        assert_ne!(ask(&mut it, &[request::UPDATE_XCAST, 3])[0] & FAILURE, 0, "the 82599 has no such mode");
    }
}

#[test]
fn long_frames_and_tags_pass_if_they_were_asked_for() {
    let mut it = pool(VfSettings { mac: Some(MAC), ..VfSettings::default() });
    let mut frame = vec![0; 9014];
    frame[..6].copy_from_slice(&MAC);
    assert!(!it.takes(&frame, None) && !it.takes(&frame[..60], Some(7)));
    assert_ne!(ask(&mut it, &[request::SET_LPE, 9729])[0] & FAILURE, 0);
    ask(&mut it, &[request::SET_LPE, 9018]);
    ask(&mut it, &[request::SET_VLAN | 1 << 16, 7]);
    assert!(it.takes(&frame, None) && it.takes(&frame[..60], Some(7)));
}
