use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::clients::protocol::Input;
use crate::estate::record::{ConnectionRecord, DeviceRecord, RingRecord, SessionRecord};

fn client() -> (Client, UnixStream) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    (Client::new(3, 1, Peer::of(Rc::new(OwnedFd::from(ours).into())).unwrap()), theirs)
}

/// Copies of files, as the next supervisor gets them.
fn copies(files: &Files<'_>) -> Heirlooms {
    Heirlooms::new(files.all().iter().map(|fd| fd.try_clone_to_owned().unwrap().into()).collect())
}

fn recorded(client: &Client) -> (ClientRecord, Heirlooms) {
    let mut files = Files::default();
    let record = client.record(&mut files, Clock::new()).unwrap();
    (serde_json::from_slice(&serde_json::to_vec(&record).unwrap()).unwrap(), copies(&files))
}

/// What the next supervisor makes of a client.
fn handed_over(client: &Client) -> Client {
    let (record, mut files) = recorded(client);
    Client::restore(record, (3, 2), &mut files, Clock::new(), &Kernel).unwrap()
}

/// GET_FEATURES, version 1, no payload.
fn question() -> Vec<u8> {
    [1u32, 1, 0].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[test]
fn half_a_message_and_its_deadline_are_handed_over() {
    for cut in 0..12 {
        let (mut before, mut theirs) = client();
        theirs.write_all(&question()[..cut]).unwrap();
        assert!(matches!(before.connection.receive(), Ok(Input::Part | Input::Nothing)));
        let due = before.connection.message_due().unwrap();
        let mut after = handed_over(&before);
        let now_due = after.connection.message_due().unwrap();
        assert!(due.max(now_due) - due.min(now_due) < Duration::from_secs(1), "{cut}");
        theirs.write_all(&question()[cut..]).unwrap();
        let mut whole = false;
        while let Ok(heard @ (Input::Part | Input::Message(_))) = after.connection.receive() {
            whole |= matches!(heard, Input::Message(_));
        }
        assert!(whole, "{cut}");
    }
}

#[test]
fn replies_that_are_not_read_and_quarantine_are_handed_over() {
    let (mut before, mut theirs) = client();
    let mut sent = 0;
    while !before.connection.has_replies() {
        theirs.write_all(&question()).unwrap();
        let message = loop {
            if let Input::Message(message) = before.connection.receive().unwrap() {
                break message;
            }
        };
        let step = before.session.request(message, &Kernel).unwrap();
        before.connection.reply(step.reply.unwrap()).unwrap();
        sent += 1;
    }
    let class = ClientClass { uid: 7, memory: MemoryClass::Unsealed };
    let until = Instant::now() + Duration::from_secs(60);
    (before.quarantine, before.suspect, before.since) = (Some(until), Some(class), Some((class, Instant::now())));
    let mut after = handed_over(&before);
    assert_eq!((after.suspect, after.id.pid, after.uid), (Some(class), before.id.pid, before.uid));
    assert!(after.quarantine.unwrap() > until - Duration::from_secs(1) && after.since.unwrap().0 == class);
    assert_eq!(after.wanted(), before.wanted());
    theirs.set_nonblocking(true).unwrap();
    let (mut octets, mut space) = (0, [0; 1 << 16]);
    while octets < sent * 20 {
        after.connection.flush().unwrap();
        octets += theirs.read(&mut space).unwrap();
    }
    assert_eq!((octets, after.connection.has_replies()), (sent * 20, false));
}

#[test]
fn a_record_that_does_not_fit_is_an_error() {
    let spoil: [fn(&mut ClientRecord); 5] = [
        |record| record.connection.part.0 = vec![0xff; 12],
        |record| record.connection.part.0 = question(),
        |record| record.connection.part.1 = vec![record.connection.socket],
        |record| record.device.rings = vec![RingRecord::default(); 33],
        |record| record.device.rings = vec![RingRecord { started: true, ..RingRecord::default() }],
    ];
    let (before, _theirs) = client();
    for (at, spoil) in spoil.into_iter().enumerate() {
        let (mut record, mut files) = recorded(&before);
        spoil(&mut record);
        assert!(Client::restore(record, (3, 2), &mut files, Clock::new(), &Kernel).is_err(), "{at}");
    }
    let (record, _) = recorded(&before);
    assert!(Client::restore(record, (3, 2), &mut Heirlooms::default(), Clock::new(), &Kernel).is_err());
}

#[test]
fn a_handover_that_fails_ends_no_connection() {
    let (before, mut theirs) = client();
    theirs.set_nonblocking(true).unwrap();
    let goes_on = |theirs: &mut UnixStream| theirs.read(&mut [0]).is_err();
    let (mut record, mut files) = recorded(&before);
    record.device.rings = vec![RingRecord::default(); 33];
    assert!(Client::restore(record, (3, 2), &mut files, Clock::new(), &Kernel).is_err() && goes_on(&mut theirs));
    drop(handed_over(&before));
    assert!(goes_on(&mut theirs));
    let mut clients = Clients::new(3);
    let (record, mut files) = recorded(&before);
    clients.restore(vec![record], &mut files, Clock::new()).unwrap();
    clients.slots.own_connections();
    drop(clients.slots.remove(3));
    assert!(!goes_on(&mut theirs), "now it ends with the client");
}

#[test]
fn a_client_needs_a_slot_of_its_own() {
    let (before, _theirs) = client();
    for slots in [vec![3, 3], vec![1024], vec![u16::MAX]] {
        let (mut files, mut records) = (Files::default(), Vec::new());
        for slot in &slots {
            let record = before.record(&mut files, Clock::new()).unwrap();
            records.push(ClientRecord { slot: Some(*slot), ..record });
        }
        assert!(Clients::new(3).restore(records, &mut copies(&files), Clock::new()).is_err(), "{slots:?}");
    }
}

#[test]
fn what_clients_hold_is_counted_again() {
    let (before, _theirs) = client();
    let (record, mut files) = recorded(&before);
    let mut clients = Clients::new(3);
    clients.restore(vec![record], &mut files, Clock::new()).unwrap();
    assert_eq!(clients.budget.held(), Holdings { fds: 1, regions: 0 });
    assert_eq!(clients.slots.taken(), [3]);
}

#[test]
fn blame_goes_on() {
    let (mut before, mut after) = (Clients::new(2), Clients::new(2));
    let (now, clock) = (Instant::now(), Clock::new());
    before.blames.blame(7, now);
    before.blames.blame(8, now);
    let until = before.blames.blame(8, now).unwrap();
    let class = ClientClass { uid: 7, memory: MemoryClass::Unsealed };
    before.classes.blame(class, 1, now);
    after.blames.restore(before.blame_record(clock), clock);
    after.classes.restore(before.class_record(clock), clock);
    assert_eq!((after.blames.until(8, now), after.blames.until(7, now)), (Some(until), None));
    assert!(after.blames.blame(7, now).is_some(), "the second death of this one");
    assert_eq!(after.blames.blame(8, until), None);
    assert_eq!(after.blames.blame(8, until), Some(until + Duration::from_secs(20)), "twice as long");
    assert!(after.classes.blame(class, 2, now).is_some());
}

proptest! {
    /// Whatever a record says, nothing panics, and a device that is restored has what a worker needs.
    #[test]
    fn any_numbers_are_survived(numbers in prop::collection::vec(any::<i64>(), 8), started in any::<bool>()) {
        let (before, _theirs) = client();
        let (record, mut files) = recorded(&before);
        let [a, b, c, d, e, f, g, h] = numbers.try_into().unwrap();
        let (base, run, fault) = (a as u16, b as u32, Some(c as u64));
        let ring = RingRecord { base, run, started, fault, ..RingRecord::default() };
        let device = DeviceRecord { features: d as u64, rings: vec![ring], ..record.device };
        let session = SessionRecord { protocol_features: e as u64, mtu: Some(f as u64), status: g as u64, unfenced: 0 };
        let connection = ConnectionRecord { opened: h, message_due: Some(g), ..record.connection };
        let record = ClientRecord { device, session, connection, quarantine: Some(a), ..record };
        if let Ok(client) = Client::restore(record, (3, 2), &mut files, Clock::new(), &Kernel) {
            prop_assert!(!started && client.as_fd().try_clone_to_owned().is_ok());
            client.session.replay();
        }
    }
}
