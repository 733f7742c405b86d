//! What a virtual function does with a physical function that is good, refuses, forgets, lies, resets, or is silent.

use std::sync::atomic::Ordering::Relaxed;

use sv3::card::{CardModel, CardSettings, CardState, Statistic};

use super::family::Family;
use super::function::Function;
use super::mailbox::{RSTD, RSTI};
use crate::nic::address::{self, Mac};
use crate::nic::event::Event;
use crate::nic::fake::{self, Fake, MAC, Physical};
use crate::nic::fault::Fault;
use crate::nic::igb_vf::IgbVf;
use crate::nic::ixgbe_vf::IxgbeVf;
use crate::nic::wait::MS;

const OTHER: Mac = [0x02, 1, 2, 3, 4, 5];
const RESET: u32 = 1;

/// A family, with what its tests need.
trait Tested: Family + Sized {
    const REGISTERS_HERE: &'static super::Registers = &Self::REGISTERS;

    fn fake(physical: Physical) -> Fake {
        Fake::vf(Self::REGISTERS_HERE, physical)
    }

    fn open(fake: &Fake, settings: &CardSettings, state: &CardState) -> Result<Function<Self>, Fault> {
        let function = Function::open(fake, settings, state)?;
        state.run.store(settings.run, Relaxed);
        state.mac.store(address::to_state(function.mac()), Relaxed);
        Ok(function)
    }
}

impl Tested for IxgbeVf {}
impl Tested for IgbVf {}

fn settings() -> CardSettings {
    fake::settings(CardModel::IxgbeVf)
}

fn counted(state: &CardState, statistic: Statistic) -> u64 {
    state.statistics[statistic as usize].load(Relaxed)
}

/// The event of the next service that has one, within the time that a function waits before it tries again.
fn event<F: Family>(function: &mut Function<F>, fake: &Fake, state: &CardState) -> Event {
    for _ in 0..20 {
        match function.service(fake, state).unwrap() {
            Event::Nothing => fake.clock.set(fake.clock.get() + 100 * MS),
            event => return event,
        }
    }
    panic!("no event");
}

fn begins_and_is_taken_over<F: Tested>() {
    let (fake, state) = (F::fake(Physical::default()), fake::state());
    let function = F::open(&fake, &settings(), &state).unwrap();
    assert_eq!((function.mac(), function.was_reset(), function.pairs()), (MAC, true, 1));
    assert!(function.start(&fake).unwrap());
    assert_eq!(fake.get(F::REGISTERS.ivar), 0x8080);
    assert_eq!(fake.get(F::REGISTERS.ivar_misc), 0x81);
    fake.with(|physical| physical.heard.clear());

    let mut function = F::open(&fake, &settings(), &state).unwrap();
    assert_eq!((function.mac(), function.was_reset()), (MAC, false));
    assert!(function.start(&fake).unwrap() && function.link(&fake).unwrap() >= 1_000);
    assert!(fake.with(|physical| !physical.heard.contains(&RESET)), "the physical function knows it");
    assert_eq!(function.service(&fake, &state), Ok(Event::Nothing));
}

#[test]
fn a_function_begins_anew_and_is_taken_over() {
    begins_and_is_taken_over::<IxgbeVf>();
    begins_and_is_taken_over::<IgbVf>();
}

fn addresses<F: Tested>() {
    // The administrator has set none: one is made up, for local use, and kept over resets.
    let (fake, state) = (F::fake(Physical { mac: None, ..Physical::default() }), fake::state());
    let made = F::open(&fake, &settings(), &state).unwrap().mac();
    assert_eq!((made[0], fake.with(|physical| physical.mac)), (2, Some(made)));
    // The person's, which the physical function takes.
    let fake = F::fake(Physical::default());
    let wanted = CardSettings { mac: Some(OTHER), ..settings() };
    assert_eq!(F::open(&fake, &wanted, &fake::state()).unwrap().mac(), OTHER);
    // It refuses: its own, or none at all.
    let fake = F::fake(Physical { refuses: vec![2], ..Physical::default() });
    assert_eq!(F::open(&fake, &wanted, &fake::state()).unwrap().mac(), MAC);
    let fake = F::fake(Physical { refuses: vec![2], mac: None, ..Physical::default() });
    assert_eq!(F::open(&fake, &settings(), &fake::state()).err(), Some(Fault::Bad("SET_MAC_ADDR")));
}

#[test]
fn the_address_is_the_person_s_or_the_administrator_s_or_made_up() {
    addresses::<IxgbeVf>();
    addresses::<IgbVf>();
}

fn long_frames<F: Tested>(expected: u32) {
    let fake = F::fake(Physical::default());
    F::open(&fake, &CardSettings { mtu: 9000, ..settings() }, &fake::state()).unwrap();
    assert_eq!(fake.with(|physical| physical.longest), expected);
    // A physical function that refuses is no reason to give up, if frames are short.
    let fake = F::fake(Physical { refuses: vec![5], ..Physical::default() });
    assert!(F::open(&fake, &settings(), &fake::state()).is_ok());
    let long = F::open(&fake, &CardSettings { mtu: 9000, ..settings() }, &fake::state());
    assert_eq!(long.err(), Some(Fault::Bad("SET_LPE")));
}

#[test]
fn long_frames_are_asked_for() {
    long_frames::<IxgbeVf>(9018);
    long_frames::<IgbVf>(9022);
}

fn filters<F: Tested>() {
    let (fake, state) = (F::fake(Physical { most: 3, ..Physical::default() }), fake::state());
    let mut function = F::open(&fake, &settings(), &state).unwrap();
    let macs: Vec<Mac> = (1..=5).map(|at| [2, 0, 0, 0, 0, at]).collect();
    assert_eq!(function.filter(&fake, &macs[..2]), Ok(2));
    assert_eq!(function.filter(&fake, &macs), Ok(3), "the physical function has three");
    assert_eq!(fake.with(|physical| physical.filters.clone()), macs[..3]);
    fake.with(|physical| physical.heard.clear());
    assert_eq!(function.filter(&fake, &macs), Ok(3));
    assert_eq!(fake.with(|physical| physical.heard.clone()), [] as [u32; 0], "it is not asked again in vain");
    let mixed = [macs[4], macs[2], macs[1], macs[0]];
    assert_eq!(function.filter(&fake, &mixed), Ok(3));
    assert_eq!(fake.with(|physical| physical.heard.clone()), [] as [u32; 0], "the order does not matter");
    assert_eq!(function.filter(&fake, &macs[3..]), Ok(2), "others take their places");
    assert_eq!(fake.with(|physical| physical.filters.clone()), macs[3..]);
}

#[test]
fn filters_are_had_up_to_the_limit_of_the_physical_function() {
    filters::<IxgbeVf>();
    filters::<IgbVf>();
}

#[test]
fn an_82599_s_function_takes_what_an_old_or_strict_physical_function_grants() {
    // Version 1.0 knows no modes: groups are named one by one.
    let fake = IxgbeVf::fake(Physical { version: 0, ..Physical::default() });
    let mut function = IxgbeVf::open(&fake, &settings(), &fake::state()).unwrap();
    assert_eq!(fake.with(|physical| physical.groups.len()), 3, "all hosts, all nodes, and its own for neighbours");
    function.filter(&fake, &[OTHER]).unwrap();
    // 33:33:ff:03:04:05, its bits 47 to 36.
    assert_eq!(fake.with(|physical| physical.groups.clone())[2], 0x050);
    // It grants less and says so.
    let fake = IxgbeVf::fake(Physical { mode: 1, downgrades: true, ..Physical::default() });
    IxgbeVf::open(&fake, &settings(), &fake::state()).unwrap();
    assert!(fake.with(|physical| !physical.groups.is_empty()));
    // It grants everything: no filter is needed.
    let fake = IxgbeVf::fake(Physical { mode: 3, ..Physical::default() });
    let mut function = IxgbeVf::open(&fake, &settings(), &fake::state()).unwrap();
    assert_eq!(function.filter(&fake, &[OTHER; 100]), Ok(100));
    assert!(fake.with(|physical| physical.filters.is_empty() && physical.groups.is_empty()));
}

fn survives_a_reset<F: Tested>() {
    let (fake, state) = (F::fake(Physical::default()), fake::state());
    let mut function = F::open(&fake, &settings(), &state).unwrap();
    function.start(&fake).unwrap();
    let speed = function.link(&fake).unwrap();

    fake.stick(F::REGISTERS.mailbox, RSTI, RSTI);
    assert_eq!(function.service(&fake, &state), Ok(Event::Link(0)), "there is no link while it lasts");
    assert_eq!(function.service(&fake, &state), Ok(Event::Nothing));
    assert_eq!(function.filter(&fake, &[OTHER]), Ok(0));
    // A worker that dies now leaves the function to the next one, which waits too.
    let mut function = F::open(&fake, &settings(), &state).unwrap();
    assert!(!function.start(&fake).unwrap());
    assert_eq!((function.mac(), function.link(&fake)), (MAC, Ok(0)));

    fake.heal();
    fake.with(|physical| physical.knows = false);
    fake.set(F::REGISTERS.mailbox, RSTD);
    assert_eq!(event(&mut function, &fake, &state), Event::Reset);
    assert!(function.start(&fake).unwrap());
    assert_eq!(function.link(&fake), Ok(speed));
    assert_eq!(function.filter(&fake, &[OTHER]), Ok(1));
    assert_eq!(counted(&state, Statistic::Resets), 1);
}

#[test]
fn resets_of_the_physical_function_are_survived() {
    survives_a_reset::<IxgbeVf>();
    survives_a_reset::<IgbVf>();
}

fn is_forgotten<F: Tested>() {
    let (fake, state) = (F::fake(Physical::default()), fake::state());
    let mut function = F::open(&fake, &settings(), &state).unwrap();
    function.link(&fake).unwrap();
    // Its driver was loaded again, and it says so when it tells of the link.
    fake.with(|physical| physical.knows = false);
    fake.tell(0x100);
    assert_eq!(event(&mut function, &fake, &state), Event::Reset);
    // Or it refuses what it is asked without saying that it knows the function.
    fake.with(|physical| physical.knows = false);
    assert_eq!(function.filter(&fake, &[OTHER]), Ok(0));
    assert_eq!(event(&mut function, &fake, &state), Event::Reset);
    // A message of one that knows it is no reason.
    fake.tell(0x100 | 1 << 29);
    assert_eq!(function.service(&fake, &state), Ok(Event::Nothing));
}

#[test]
fn a_physical_function_that_forgets_is_told_again() {
    is_forgotten::<IxgbeVf>();
    is_forgotten::<IgbVf>();
}

fn silence<F: Tested>(physical: Physical, name: &'static str) {
    let fake = F::fake(physical);
    assert_eq!(F::open(&fake, &settings(), &fake::state()).err(), Some(Fault::Bad(name)));
    assert!(fake.clock.get() < 100 * MS, "{name}: {} ns", fake.clock.get());
}

#[test]
fn a_mailbox_that_never_answers_ends_the_opening_in_time() {
    silence::<IxgbeVf>(Physical { deaf: true, ..Physical::default() }, "VFMAILBOX.PFACK");
    silence::<IgbVf>(Physical { deaf: true, ..Physical::default() }, "VFMAILBOX.PFACK");
    silence::<IxgbeVf>(Physical { mute: true, ..Physical::default() }, "VFMAILBOX.PFSTS");
    silence::<IgbVf>(Physical { lies: Some(u32::MAX >> 1), ..Physical::default() }, "VFMAILBOX.PFSTS");
}

fn silence_while_it_runs<F: Tested>() {
    let (fake, state) = (F::fake(Physical::default()), fake::state());
    let mut function = F::open(&fake, &settings(), &state).unwrap();
    function.link(&fake).unwrap();
    fake.with(|physical| physical.mute = true);
    assert_eq!(function.filter(&fake, &[OTHER]), Ok(0));
    let start = fake.clock.get();
    assert_eq!(function.filter(&fake, &[OTHER]), Ok(0));
    assert!(fake.clock.get() - start < MS, "it waits once");
    assert_eq!(event(&mut function, &fake, &state), Event::Link(0));
    // A new worker does not give up what was there.
    let mut function = F::open(&fake, &settings(), &state).unwrap();
    assert!(!function.start(&fake).unwrap());
    fake.with(|physical| physical.mute = false);
    assert_eq!(event(&mut function, &fake, &state), Event::Reset);
}

#[test]
fn a_mailbox_that_falls_silent_costs_the_link_until_it_speaks() {
    silence_while_it_runs::<IxgbeVf>();
    silence_while_it_runs::<IgbVf>();
}

fn odd_answers<F: Tested>() {
    // A message about the link comes between request and answer.
    let fake = F::fake(Physical { chatty: true, ..Physical::default() });
    assert_eq!(F::open(&fake, &settings(), &fake::state()).unwrap().mac(), MAC);
    // The buffer is never free.
    let fake = F::fake(Physical::default());
    fake.stick(F::REGISTERS.mailbox, 1 << 2, 0);
    assert_eq!(F::open(&fake, &settings(), &fake::state()).err(), Some(Fault::Bad("VFMAILBOX.VFU")));
    // Any answer at all does no harm.
    for word in 0..32 {
        let fake = F::fake(Physical { lies: Some(1 << 31 | 1 << word | 1), ..Physical::default() });
        let _ = F::open(&fake, &settings(), &fake::state());
    }
    // The function has three vectors.
    let fake = F::fake(Physical::default());
    let pairs = CardSettings { pairs: 3, ..settings() };
    assert_eq!(F::open(&fake, &pairs, &fake::state()).err(), Some(Fault::Bad("VTIVAR")));
}

#[test]
fn odd_answers_do_no_harm() {
    odd_answers::<IxgbeVf>();
    odd_answers::<IgbVf>();
}

fn goes<F: Tested>() {
    let fake = F::fake(Physical::default());
    F::open(&fake, &settings(), &fake::state()).unwrap();
    for gone in 1..=fake.reads.get() {
        let fake = F::fake(Physical::default());
        fake.gone_at.set(Some(gone));
        assert_eq!(F::open(&fake, &settings(), &fake::state()).err(), Some(Fault::Gone), "at read {gone}");
    }
    let state = fake::state();
    let mut function = F::open(&fake, &settings(), &state).unwrap();
    fake.gone_at.set(Some(0));
    assert_eq!(function.service(&fake, &state), Err(Fault::Gone));
    assert_eq!(function.filter(&fake, &[OTHER]), Err(Fault::Gone));
    assert_eq!(function.statistics(&fake, &state), Err(Fault::Gone));
}

#[test]
fn a_function_that_goes_at_any_read_is_gone() {
    goes::<IxgbeVf>();
    goes::<IgbVf>();
}

fn counters<F: Tested>() {
    let (fake, state) = (F::fake(Physical::default()), fake::state());
    let counter = F::COUNTERS[0];
    fake.set(counter.at, 0xffff_fff0);
    let function = F::open(&fake, &settings(), &state).unwrap();
    function.statistics(&fake, &state).unwrap();
    assert_eq!(counted(&state, counter.statistic), 0, "what was counted before is not ours");
    fake.set(counter.at, 0x10);
    function.statistics(&fake, &state).unwrap();
    assert_eq!(counted(&state, counter.statistic), 0x20, "the counter wraps");
    // What it counts between two workers is counted.
    fake.set(counter.at, 0x30);
    F::open(&fake, &settings(), &state).unwrap().statistics(&fake, &state).unwrap();
    assert_eq!(counted(&state, counter.statistic), 0x40);
}

#[test]
fn counters_wrap_and_go_on_with_the_next_worker() {
    counters::<IxgbeVf>();
    counters::<IgbVf>();
}

#[test]
fn counters_of_36_bits_wrap() {
    let (fake, state) = (IxgbeVf::fake(Physical::default()), fake::state());
    fake.set(0x1020, u32::MAX - 1);
    fake.set(0x1024, 0xf);
    let function = IxgbeVf::open(&fake, &settings(), &state).unwrap();
    fake.set(0x1020, 3);
    fake.set(0x1024, 0);
    function.statistics(&fake, &state).unwrap();
    assert_eq!(counted(&state, Statistic::GoodOctetsReceived), 5);
}
