//! When an index passes an event index (virtio 1.3, 2.7.10), compared with the definition, entry by entry.

use super::passes;

#[test]
fn an_index_passes_what_lies_between() {
    let steps = (0..=40).chain([255, 256, 1024, 32767, 32768, 32769, 65534, 65535]);
    for step in steps {
        for old in [0u16, 1, 100, 32767, 65500, 65535] {
            let new = old.wrapping_add(step);
            // The event is passed when the entry of that index was added: from `old` on, before `new`.
            let mut passed = vec![false; 1 << 16];
            (0..step).for_each(|n| passed[usize::from(old.wrapping_add(n))] = true);
            for event in 0..=u16::MAX {
                let wanted = passed[usize::from(event)];
                assert_eq!(passes(event, new, old), wanted, "event {event}, from {old} to {new}");
            }
        }
    }
}
