//! Where sv3 and the kernel differ, and whether they may.

use std::collections::BTreeMap;

use super::kernel::leaves_bare;
use super::{Fate, Kind, Play, Row, Setup, Step, is_tagged};
use crate::failure::{Failure, Result};

/// How often each row was seen with a frame that only one of the two forwarded, or forwarded otherwise.
pub type Seen = BTreeMap<Row, usize>;

/// Compares what became of each frame in sv3 and in the kernel.
pub fn compare(play: &Play, ours: &[Fate], theirs: &[Fate]) -> Result<Seen> {
    let steps: Vec<_> = play.steps().collect();
    if [ours.len(), theirs.len()] != [steps.len(); 2] {
        return Err(Failure::new(format!(
            "{} frames, of which {} and {} are told",
            steps.len(),
            ours.len(),
            theirs.len()
        )));
    }
    let mut seen = Seen::new();
    for (at, (setup, step)) in steps.iter().enumerate() {
        let (expected_ours, expected_theirs) = match step.row {
            None => (theirs[at].clone(), theirs[at].clone()),
            Some(row) => {
                let twin = &steps[at + 1].1.frame;
                let [ours, kernel] = row.likes(setup, step).map(|like| match like {
                    Some(like) => like.apply(&step.frame, twin, &theirs[at + 1]),
                    None => Fate::new(),
                });
                *seen.entry(row).or_default() += usize::from(ours != kernel);
                (ours, kernel)
            }
        };
        let all = expected_ours.len();
        let expected_ours: Fate =
            expected_ours.into_iter().filter(|(port, frame)| !hops(setup, step, *port, frame)).collect();
        *seen.entry(Row::Hop).or_default() += all - expected_ours.len();
        if (&expected_ours, &expected_theirs) != (&ours[at], &theirs[at]) {
            let fates = format!("sv3:      {:02x?}\nexpected: {expected_ours:02x?}\n", ours[at]);
            let theirs = format!("kernel:   {:02x?}\nexpected: {expected_theirs:02x?}", theirs[at]);
            let what = format!("frame {at}, {:?}, from port {}: {:02x?}", step.row, step.from, step.frame);
            return Err(Failure::new(format!("{what}\n{fates}{theirs}\n{setup:#?}")));
        }
    }
    Ok(seen)
}

/// Whether a frame leaves without a tag of the switch's and begins with one. At a tunnel port it is the customer's.
fn hops(setup: &Setup, step: &Step, port: u8, came: &[u8]) -> bool {
    let is_tunnel = setup.kind == Kind::Service && setup.ports[usize::from(port)].member.is_single();
    // To sv3, all frames of a tunnel port are of its VLAN.
    let vid = match step.row {
        Some(Row::ServiceTag) => setup.ports[step.from].member.untagged,
        _ => setup.vid_of(step.from, &step.frame),
    };
    let bare = setup.kind != Kind::Unaware && vid.is_some_and(|vid| leaves_bare(setup, port, vid));
    bare && !is_tunnel && is_tagged(came)
}
