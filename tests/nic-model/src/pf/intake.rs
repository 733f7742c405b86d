//! A frame's way from the wire into the physical function: filters, checks, the queue.

use super::Pf;
use crate::filter::{self, Pass};
use crate::frame::Headers;
use crate::receive::{Put, Report};
use crate::receiver::Arrival;
use crate::registers::{self as reg};
use crate::{Memory, offload, rss, statistics};

/// Status: there is a tag (VP), the filter is inexact (PIF).
const VP: u32 = 1 << 3;
const PIF: u32 = 1 << 7;
/// Errors: the MAC has found one (RXE).
const RXE: u32 = 1 << 29;
/// RXDCTL: tags are stripped.
const VME: u32 = 1 << 30;
/// HLREG0: check sequences are stripped.
const STRIPS: u32 = 1 << 1;
/// RFCTL: no queue joins segments.
const RSC_DIS: u32 = 1 << 5;
/// EICR: the packet buffer was full.
const RX_MISS: u32 = 1 << 17;
/// Counters: frames that are too long, with a bad checksum.
const ROC: u32 = 0x40AC;
const XEC: u32 = 0x4120;

impl Pf {
    /// A frame comes. False: it is dropped.
    pub(super) fn intake(&mut self, frame: &[u8], memory: &mut dyn Memory) -> bool {
        let headers = Headers::of(frame);
        if !filter::fits(&self.registers, frame.len(), headers.vlan.is_some()) {
            self.registers.count(ROC, 1);
            return false;
        }
        let Some(pass) = filter::passes(&self.registers, frame, headers.vlan) else {
            statistics::filtered(&mut self.registers, frame.len());
            return false;
        };
        let nobody_waits = self.function.receiver.waiting.is_empty();
        match if nobody_waits { self.store(frame, headers, pass, memory) } else { Put::Waits } {
            Put::Stored => true,
            Put::Lost => false,
            Put::Waits => {
                let room = self.function.receiver.wait(frame);
                self.registers.count(if room { reg::RNBC } else { reg::MPC }, 1);
                if !room {
                    self.function.interrupts.other(RX_MISS);
                }
                room
            }
        }
    }

    /// Frames that wait are tried again, in order.
    pub(super) fn retry(&mut self, memory: &mut dyn Memory) {
        if self.function.gone || !self.function.bus_master {
            return;
        }
        while let Some(frame) = self.function.receiver.waiting.pop() {
            let headers = Headers::of(&frame);
            let put = match filter::passes(&self.registers, &frame, headers.vlan) {
                Some(pass) => self.store(&frame, headers, pass, memory),
                None => Put::Lost,
            };
            match put {
                Put::Waits => return self.function.receiver.waiting.put_back(frame),
                Put::Stored | Put::Lost => self.function.receiver.waiting.recycle(frame),
            }
        }
    }

    fn store(&mut self, frame: &[u8], headers: Headers, pass: Pass, memory: &mut dyn Memory) -> Put {
        let choice = rss::choose(&self.registers, frame, &headers);
        let mut report = Report {
            info: headers.packet_type() | choice.kind,
            hash: choice.hash,
            status: offload::check(frame, &headers) | if pass == Pass::Inexact { PIF } else { 0 },
            vlan: headers.vlan.unwrap_or(0),
        };
        if self.damaged {
            report.status |= RXE;
        }
        let bad = report.status & (offload::TCPE | offload::IPE) != 0;
        let Some(queue) = self.function.receiver.queues.get(choice.queue) else { return Put::Lost };
        let strips_tag = queue.strips_tags() && headers.vlan.is_some();
        if headers.vlan.is_some() {
            report.status |= VP;
        }
        let joins = self.registers.get(reg::RFCTL) & RSC_DIS == 0;
        let put = if strips_tag || self.registers.get(reg::HLREG0) & STRIPS == 0 {
            let changed = self.changed(frame, strips_tag);
            let headers = if strips_tag { Headers::of(&changed) } else { headers };
            self.function.store(&Arrival { frame: &changed, headers, queue: choice.queue, report, joins }, memory)
        } else {
            self.function.store(&Arrival { frame, headers, queue: choice.queue, report, joins }, memory)
        };
        if put == Put::Stored && bad {
            self.registers.count(XEC, 1);
        }
        put
    }

    /// The frame without its tag, with its check sequence, or both.
    fn changed(&self, frame: &[u8], strips_tag: bool) -> Vec<u8> {
        let mut it = frame.to_vec();
        if self.registers.get(reg::HLREG0) & STRIPS == 0 {
            it.extend_from_slice(&offload::frame_check(frame));
        }
        if strips_tag {
            it.drain(12..16);
        }
        it
    }
}

impl crate::receive::ReceiveQueue {
    fn strips_tags(&self) -> bool {
        self.rxdctl & VME != 0
    }
}
