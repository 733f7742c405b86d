//! Network cards that sv3 can drive, and whether this user has them.

use super::finding::{Cost, Finding};
use super::machine::Machine;

const DEVICES: &str = "sys/bus/pci/devices";
const INTEL: &str = "0x8086";
/// Device ids of the cards that workers drive, as in `supervisor/src/ports/vfio.rs`.
const CARDS: [u16; 19] = [
    0x10f7, 0x10f8, 0x10f9, 0x10fb, 0x10fc, 0x1507, 0x1514, 0x1517, 0x151c, 0x1529, 0x154d, 0x1557, 0x1558, 0x1528,
    0x1560, 0x10ed, 0x1515, 0x10ca, 0x1520,
];

/// Looks.
pub fn probe(machine: &Machine) -> Vec<Finding> {
    let ours = |address: &String| {
        let word = |name: &str| machine.read(format!("{DEVICES}/{address}/{name}")).unwrap_or_default();
        let id = word("device").strip_prefix("0x").and_then(|id| u16::from_str_radix(id, 16).ok());
        word("vendor") == INTEL && id.is_some_and(|id| CARDS.contains(&id))
    };
    let cards: Vec<String> = machine.list(DEVICES).into_iter().filter(ours).collect();
    if cards.is_empty() {
        return vec![Finding::good("vfio", "this machine has no network card that sv3 drives itself")];
    }
    cards.iter().map(|card| of(machine, card)).collect()
}

fn of(machine: &Machine, card: &str) -> Finding {
    let Some(group) = machine.link(format!("{DEVICES}/{card}/iommu_group")) else {
        return Finding::advice("vfio", format!("the network card {card} has no IOMMU group: sv3 cannot drive it")).to(
            Cost::Reboot,
            "only for this card: switch VT-d or the AMD IOMMU on in the firmware, and on Intel boot with `intel_iommu=on`",
        );
    };
    let give = format!("`sudo scripts/vfio-rebind {card} USER`: the host then has this card no longer");
    match machine.link(format!("{DEVICES}/{card}/driver")) {
        Some(driver) if driver == "vfio-pci" => {}
        driver => {
            let has = driver.map_or("no driver".to_string(), |driver| format!("the driver {driver}"));
            return Finding::advice(
                "vfio",
                format!("the network card {card} has {has}; sv3 could drive it by vfio-pci"),
            )
            .to(Cost::Host, format!("only if guests are to have it: {give}"));
        }
    }
    if !machine.may_use(format!("dev/vfio/{group}")) {
        return Finding::advice(
            "vfio",
            format!("the network card {card} has vfio-pci, but /dev/vfio/{group} is not this user's"),
        )
        .to(Cost::Host, give);
    }
    Finding::good("vfio", format!("the network card {card} is this user's: `sv3 attach nic {card}` makes it a port"))
}

#[cfg(test)]
mod tests {
    use super::super::machine::fake::Fake;
    use super::*;

    #[test]
    fn each_step_to_a_card_is_told() {
        let fake = Fake::with(&[]);
        let said = |fake: &Fake| probe(&fake.machine)[0].message.clone();
        assert!(said(&fake).contains("no network card that sv3 drives"));
        let card = "sys/bus/pci/devices/0000:02:00.1";
        fake.write(&format!("{card}/vendor"), "0x8086\n");
        fake.write(&format!("{card}/device"), "0x10fb\n");
        assert!(said(&fake).contains("no IOMMU group"));
        fake.link(&format!("{card}/iommu_group"), "../../../kernel/iommu_groups/17");
        assert!(said(&fake).contains("has no driver"));
        fake.link(&format!("{card}/driver"), "../../../bus/pci/drivers/vfio-pci");
        assert!(said(&fake).contains("/dev/vfio/17 is not this user's"));
        fake.write("dev/vfio/17", "");
        assert!(said(&fake).contains("`sv3 attach nic 0000:02:00.1`"));
    }

    #[test]
    fn the_cards_are_those_of_the_supervisor() {
        let text = include_str!("../../../supervisor/src/ports/vfio.rs");
        let models: Vec<u16> = text
            .lines()
            .filter(|line| line.contains(", CardModel::"))
            .filter_map(|line| u16::from_str_radix(line.trim().strip_prefix("(0x")?.get(..4)?, 16).ok())
            .collect();
        assert_eq!(models, CARDS);
    }
}
