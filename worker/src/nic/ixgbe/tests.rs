//! What the driver does with a card that does not behave. How it starts and uses a good one is tested with the model.

use std::sync::atomic::Ordering::Relaxed;

use sv3::card::{CardModel, CardSettings, CardState, STATISTICS, Statistic};

use super::registers::*;
use super::*;
use crate::nic::fake::{self, Fake, MAC};
use crate::nic::queue_registers::ENABLE;
use crate::nic::wait::MS;

fn settings() -> CardSettings {
    fake::settings(CardModel::Ixgbe)
}

/// A worker has opened the card and started it.
fn running(fake: &Fake, state: &CardState) -> Ixgbe {
    let mut device = Ixgbe::open(fake, &settings(), state).unwrap();
    state.run.store(1, Relaxed);
    assert!(device.start(fake).unwrap());
    state.link.store(device.link(fake).unwrap(), Relaxed);
    device.receive_registers(0).enable(fake, "RXDCTL").unwrap();
    device.transmit_registers(0).enable(fake, "TXDCTL").unwrap();
    fake.writes.borrow_mut().clear();
    device
}

fn resets(fake: &Fake) -> usize {
    fake.written(CTRL).iter().filter(|value| **value & CTRL_RST != 0).count()
}

#[test]
fn a_card_of_nobody_is_reset_and_set_up() {
    let (fake, state) = (Fake::ixgbe(), fake::state());
    fake.set(ESDP, ESDP_SDP3);
    let mut device = Ixgbe::open(&fake, &settings(), &state).unwrap();
    assert_eq!((resets(&fake), device.was_reset(), device.mac()), (1, true, MAC));
    assert_eq!(fake.get(RXCTRL) | fake.get(DMATXCTL), 0, "receiver and transmitter are off");
    assert_eq!(fake.get(ESDP), 0, "the laser is on");
    assert_eq!(fake.get(FCTRL), FCTRL_MPE | FCTRL_UPE | FCTRL_BAM);
    assert_eq!(fake.get(ivar(0)), 0x8080);
    assert_eq!(fake.get(IVAR_MISC), 0x8100);
    assert_eq!(fake.get(RSCCTL + receive_queue(0)), 0);
    device.start(&fake).unwrap();
    assert_eq!((fake.get(RXCTRL), fake.get(DMATXCTL)), (RXCTRL_RXEN, DMATXCTL_TE));
    assert_eq!(device.link(&fake), Ok(10_000));
}

#[test]
fn a_card_that_a_worker_has_left_is_stopped_and_not_reset() {
    let (fake, state) = (Fake::ixgbe(), fake::state());
    running(&fake, &state);
    let device = Ixgbe::open(&fake, &settings(), &state).unwrap();
    assert_eq!((resets(&fake), device.was_reset(), device.mac()), (0, false, MAC));
    assert_eq!(fake.written(AUTOC), [] as [u32; 0], "the link stays");
    assert_eq!(fake.get(RXCTRL) & RXCTRL_RXEN, 0);
    let queues = [device.receive_registers(0), device.transmit_registers(0)];
    assert!(queues.iter().all(|queue| fake.get(queue.control) & ENABLE == 0));
}

#[test]
fn another_run_and_a_queue_that_does_not_stop_need_a_reset() {
    let (fake, state) = (Fake::ixgbe(), fake::state());
    running(&fake, &state);
    let device = Ixgbe::open(&fake, &CardSettings { run: 2, ..settings() }, &state).unwrap();
    assert_eq!((resets(&fake), device.was_reset()), (1, true));

    let (fake, state) = (Fake::ixgbe(), fake::state());
    let device = running(&fake, &state);
    fake.stick(device.transmit_registers(0).control, ENABLE, ENABLE);
    let device = Ixgbe::open(&fake, &settings(), &state).unwrap();
    assert_eq!((resets(&fake), device.was_reset()), (1, true));
}

#[test]
fn a_card_that_goes_at_any_read_is_gone() {
    let (fake, state) = (Fake::ixgbe(), fake::state());
    running(&fake, &state);
    let needed = fake.reads.get();
    for gone in 1..=needed {
        let fake = Fake::ixgbe();
        fake.gone_at.set(Some(gone));
        let started = Ixgbe::open(&fake, &settings(), &fake::state()).and_then(|mut device| {
            device.start(&fake)?;
            device.link(&fake)?;
            device.receive_registers(0).enable(&fake, "RXDCTL")?;
            device.transmit_registers(0).enable(&fake, "TXDCTL")
        });
        assert_eq!(started, Err(Fault::Gone), "at read {gone}");
    }
}

#[test]
fn a_stuck_register_is_named_in_time() {
    let stuck = [
        ("CTRL", CTRL, CTRL_RST, CTRL_RST),
        ("EEC", EEC, EEC_ARD, 0),
        ("RDRXCTL", RDRXCTL, RDRXCTL_DMAIDONE, 0),
        ("RAL", ral(0), 1, 1),
    ];
    for (name, at, mask, value) in stuck {
        let fake = Fake::ixgbe();
        fake.stick(at, mask, value);
        assert_eq!(Ixgbe::open(&fake, &settings(), &fake::state()).err(), Some(Fault::Bad(name)));
        assert!(fake.clock.get() < 300 * MS, "{name}: {} ns", fake.clock.get());
    }
    // What is no reason to give up: requests that do not come back, and a receive path that does not become empty.
    let fake = Fake::ixgbe();
    fake.stick(STATUS, STATUS_GIO, STATUS_GIO);
    fake.stick(SECRXSTAT, SECRXSTAT_SECRX_RDY, 0);
    assert!(Ixgbe::open(&fake, &settings(), &fake::state()).is_ok());
    assert_eq!(resets(&fake), 2, "5.2.5.3.2");
    assert_eq!(fake.written(GCR_EXT), [GCR_EXT_BUFFERS_CLEAR, 0]);
}

#[test]
fn a_module_that_cannot_be_asked_is_no_reason_to_give_up() {
    let gssr = GSSR_PHY0 << 5;
    for (at, mask, value) in [
        (I2CCTL, I2CCTL_DATA_IN, I2CCTL_DATA_IN),
        (I2CCTL, I2CCTL_DATA_IN, 0),
        (SWSM, SWSM_SMBI, SWSM_SMBI),
        (SWSM, SWSM_SWESMBI, 0),
        (GSSR, gssr, gssr),
        (EERD, EERD_DONE, 0),
    ] {
        let (fake, state) = (Fake::ixgbe(), fake::state());
        fake.stick(LINKS, LINKS_UP, 0);
        fake.stick(at, mask, value);
        Ixgbe::open(&fake, &settings(), &state).unwrap();
        assert!(fake.clock.get() < 300 * MS, "{at:#x}: {} ns", fake.clock.get());
        assert_eq!(fake.written(CORECTL), [] as [u32; 0]);
        assert_ne!(fake.written(AUTOC), [] as [u32; 0], "the link begins anew");
        assert_eq!(fake.get(GSSR), 0);
    }
}

#[test]
fn a_link_that_was_there_has_time_to_come_back_after_a_reset() {
    let (fake, state) = (Fake::ixgbe(), fake::state());
    let device = running(&fake, &state);
    fake.stick(device.transmit_registers(0).control, ENABLE, ENABLE);
    fake.stick(LINKS, LINKS_UP, 0);
    let mut device = Ixgbe::open(&fake, &settings(), &state).unwrap();
    assert!(device.was_reset());
    assert_eq!(device.service(&fake, &state), Ok(Event::Nothing));
    assert_eq!(fake.written(AUTOC), [] as [u32; 0]);
    fake.clock.set(fake.clock.get() + 2_000 * MS);
    assert_eq!(device.service(&fake, &state), Ok(Event::Nothing));
    assert_eq!(device.service(&fake, &state), Ok(Event::Nothing));
    assert_eq!(fake.written(AUTOC).len(), 1, "it is looked for once");
}

#[test]
fn the_link_s_changes_and_resets_of_the_card_are_told_once() {
    let (fake, state) = (Fake::ixgbe(), fake::state());
    let mut device = running(&fake, &state);
    assert_eq!(device.service(&fake, &state), Ok(Event::Nothing));
    fake.set(LINKS, 0);
    fake.set(EICS, EICR_LSC | 1);
    assert_eq!(device.service(&fake, &state), Ok(Event::Link(0)));
    assert_eq!(fake.get(EICS), 1, "the cause of a queue stays");
    assert_eq!(device.service(&fake, &state), Ok(Event::Nothing));

    fake.write(CTRL, CTRL_RST);
    assert_eq!(device.service(&fake, &state), Ok(Event::Reset));
    assert_eq!(fake.get(FCTRL), FCTRL_MPE | FCTRL_UPE | FCTRL_BAM);
    assert_eq!(device.service(&fake, &state), Ok(Event::Link(10_000)));
    fake.set(EICS, EICR_ECC);
    assert_eq!(device.service(&fake, &state), Ok(Event::Reset));
    let counted = |statistic| state.statistics[statistic as usize].load(Relaxed);
    assert_eq!((counted(Statistic::Resets), counted(Statistic::LinkChanges)), (2, 2));

    fake.gone_at.set(Some(0));
    assert_eq!(device.service(&fake, &state), Err(Fault::Gone));
}

#[test]
fn counters_add_up_and_a_card_that_is_gone_counts_nothing() {
    let (fake, state) = (Fake::ixgbe(), fake::state());
    let device = running(&fake, &state);
    let counted = |statistic| state.statistics[statistic as usize].load(Relaxed);
    fake.set(0x4074, 7);
    fake.set(0x4088, 0xffff_fff0);
    fake.set(0x408c, 0xf);
    device.statistics(&fake, &state).unwrap();
    device.statistics(&fake, &state).unwrap();
    assert_eq!(counted(Statistic::GoodReceived), 14, "the fake does not clear on reading");
    assert_eq!(counted(Statistic::GoodOctetsReceived), 2 * 0xf_ffff_fff0);
    fake.gone_at.set(Some(fake.reads.get() + 2));
    let before: [u64; STATISTICS] = std::array::from_fn(|at| state.statistics[at].load(Relaxed));
    assert_eq!(device.statistics(&fake, &state), Err(Fault::Gone));
    assert_eq!(before, std::array::from_fn(|at| state.statistics[at].load(Relaxed)));
}

#[test]
fn several_pairs_share_flows_and_segments_are_joined_within_the_limit() {
    let (fake, state) = (Fake::ixgbe(), fake::state());
    let more = CardSettings { pairs: 3, lro: true, buffer: 4096, mtu: 9000, ..settings() };
    Ixgbe::open(&fake, &more, &state).unwrap();
    assert_eq!(fake.get(MRQC) & MRQC_RSS, MRQC_RSS);
    assert_eq!((fake.get(reta(0)), fake.get(reta(31))), (0x0002_0100, 0x0100_0201));
    assert_eq!((fake.get(ivar(0)), fake.get(ivar(2))), (0x8181_8080, 0x8282));
    assert_eq!(fake.get(IVAR_MISC), 0x8300);
    // 8 descriptors of 4,096 octets; 16 would hold 64 KiB.
    assert_eq!(fake.get(RSCCTL + receive_queue(2)), RSCCTL_RSCEN | 2 << RSCCTL_MAXDESC);
    assert_eq!(fake.get(srrctl(1)), SRRCTL_DROP_EN | 1 << 25 | 4 << 8 | 4);
    assert_eq!((fake.get(MAXFRS) >> 16, fake.get(HLREG0) & HLREG0_JUMBOEN), (9018, HLREG0_JUMBOEN));
    assert_ne!(fake.get(eitr(2)) & 0xff8, 0, "RSC needs an interval");
}
