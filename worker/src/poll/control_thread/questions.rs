//! Snooping's part of the control thread: it asks for members of groups where nobody else does, at ports that have just
//! begun to receive, and at ports where a member has left.

use sv3::groups::Family;
use sv3::ipc::SnoopingRun;

use super::ControlThread;
use crate::forward::forwarder::Forwarder;
use crate::forward::snooping::querier::{ROBUSTNESS, Turn};
use crate::forward::snooping::question::{self, Question};

/// Most VLANs in which a port that begins to receive is asked. If there are more, it waits for the general queries.
const VLANS_ASKED: usize = 64;
/// Most general queries of one look, so that thousands of VLANs do not delay frames.
const QUERIES: usize = 8;
/// Most pairs of VLAN and family in which a port is asked at a time because members have left.
const SCOPES_ASKED: usize = 16;

/// What there is to ask.
#[derive(Default)]
pub struct Questions {
    /// The setting in force, or for the time when the worker serves.
    setting: Option<SnoopingRun>,
    /// When there is something to do, in nanoseconds; 0: look now.
    next_ns: u64,
    /// Ports that have begun to receive.
    newcomers: Vec<Newcomer>,
    /// Ports with members that have left, and when to ask there, in nanoseconds.
    leavers: Vec<(u16, u64)>,
}

/// A port that has begun to receive.
struct Newcomer {
    slot: u16,
    /// When to ask next, in nanoseconds.
    due_ns: u64,
    /// How often it is still to be asked.
    times: u64,
}

impl Questions {
    /// With the setting that the worker started with.
    pub fn new(setting: Option<SnoopingRun>) -> Questions {
        Questions { setting, ..Questions::default() }
    }

    /// A port is gone.
    pub fn forget(&mut self, slot: u16) {
        self.newcomers.retain(|one| one.slot != slot);
        self.leavers.retain(|(leaver, _)| *leaver != slot);
    }

    /// There may be something to do.
    pub fn wake(&mut self) {
        self.next_ns = 0;
    }
}

impl ControlThread {
    /// The switch snoops from now on, or no longer. A standby keeps it in mind.
    pub(super) fn set_snooping(&mut self, setting: Option<SnoopingRun>) {
        self.questions.setting = setting;
        if !self.standby {
            self.apply_snooping();
        }
    }

    /// Puts the setting in force.
    pub(super) fn apply_snooping(&mut self) {
        self.poller.forwarder.snooping.table.set(self.questions.setting.as_ref());
        self.questions.wake();
    }

    /// A port begins to receive: its guest may be a member of groups since long. It gets all of them until it was asked
    /// twice and has answered.
    pub(super) fn greet(&mut self, slot: u16) {
        let Forwarder { snooping, now_ns, .. } = &self.poller.forwarder;
        let table = snooping.table;
        if self.standby || self.uplinks.takes_over || !table.is_on() {
            return;
        }
        let mut scopes = table.vlans().flat_map(|vid| Family::BOTH.map(|family| (vid, family)));
        let asks = scopes.all(|(vid, family)| table.is_querier(vid, family, *now_ns));
        let (response, interval) = (table.response_ns() + table.last_member_ns(), table.interval_ns());
        table.open(slot, now_ns + ROBUSTNESS * response + if asks { 0 } else { interval });
        self.questions.newcomers.retain(|one| one.slot != slot);
        self.questions.newcomers.push(Newcomer { slot, due_ns: *now_ns, times: ROBUSTNESS });
        self.questions.wake();
    }

    /// Asks where that is due. Returns whether there is more to do at once, and sets the alarm for what is to be done
    /// later, if it is before the alarm that is set.
    pub(super) fn tend_questions(&mut self) -> bool {
        let (forwarder, questions) = (&mut self.poller.forwarder, &mut self.questions);
        if self.standby || !forwarder.snooping.is_on() {
            return false;
        }
        let now_ns = forwarder.now_ns;
        if questions.next_ns <= now_ns {
            let due = [ask_leavers(forwarder, questions), ask_newcomers(forwarder, questions), ask_all(forwarder)];
            questions.next_ns = due.into_iter().flatten().min().unwrap_or(u64::MAX);
        }
        let next_ns = questions.next_ns;
        self.poller.alarm = self.poller.alarm.into_iter().chain([next_ns]).min();
        next_ns <= now_ns
    }
}

/// The general queries. Returns when the next one is due; in the past: at once.
fn ask_all(forwarder: &mut Forwarder) -> Option<u64> {
    let (table, now_ns) = (forwarder.snooping.table, forwarder.now_ns);
    let (mut next, mut asked) = (None, 0);
    for (vid, family) in table.vlans().flat_map(|vid| Family::BOTH.map(|family| (vid, family))) {
        let response_ns = table.response_ns();
        if table.turn(vid, family, now_ns) == Turn::Now {
            let question = Question { vid, family, response_ns };
            if asked == QUERIES || !question::send(forwarder, &question, None) {
                return Some(now_ns);
            }
            asked += 1;
            table.has_asked(vid, family, now_ns);
        }
        let due = match table.turn(vid, family, now_ns) {
            Turn::Now => Some(now_ns),
            Turn::At(at) => Some(at),
            Turn::Never => None,
        };
        next = next.into_iter().chain(due).min();
    }
    next
}

/// Asks the ports that have begun to receive.
fn ask_newcomers(forwarder: &mut Forwarder, questions: &mut Questions) -> Option<u64> {
    let (table, now_ns) = (forwarder.snooping.table, forwarder.now_ns);
    let again = table.response_ns() + table.last_member_ns();
    questions.newcomers.retain_mut(|one| {
        if one.due_ns > now_ns {
            return true;
        }
        let scopes = table.vlans().take(VLANS_ASKED).flat_map(|vid| Family::BOTH.map(|family| (vid, family)));
        for (vid, family) in scopes.filter(|(vid, family)| table.is_querier(*vid, *family, now_ns)) {
            let question = Question { vid, family, response_ns: table.response_ns() };
            // Those that were asked already are asked again in the next turn, which does no harm.
            if !question::send(forwarder, &question, Some(one.slot)) {
                return true;
            }
        }
        (one.due_ns, one.times) = (now_ns + again, one.times.saturating_sub(1));
        one.times > 0
    });
    questions.newcomers.iter().map(|one| one.due_ns).min()
}

/// Asks the ports where members have left.
fn ask_leavers(forwarder: &mut Forwarder, questions: &mut Questions) -> Option<u64> {
    let (table, now_ns) = (forwarder.snooping.table, forwarder.now_ns);
    for slot in table.take_left() {
        if !questions.leavers.iter().any(|(leaver, _)| *leaver == slot) {
            questions.leavers.push((slot, now_ns));
        }
    }
    let again = table.last_member_ns();
    questions.leavers.retain_mut(|(slot, due_ns)| {
        if *due_ns > now_ns {
            return true;
        }
        let mut done = Vec::with_capacity(SCOPES_ASKED);
        while done.len() < SCOPES_ASKED
            && let Some(scope) = table.next_left(*slot, &done, now_ns)
        {
            done.push(scope);
            let (vid, family) = scope;
            // Another querier asks itself.
            if !table.is_querier(vid, family, now_ns) {
                continue;
            }
            if !question::send(forwarder, &Question { vid, family, response_ns: again }, Some(*slot)) {
                return true;
            }
            table.was_asked(*slot, scope, now_ns + ROBUSTNESS * again);
        }
        *due_ns = now_ns + again;
        !done.is_empty()
    });
    questions.leavers.iter().map(|(_, due_ns)| *due_ns).min()
}
