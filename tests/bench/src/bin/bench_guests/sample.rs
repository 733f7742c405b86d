//! One measurement, and a file of them.

use std::fs;
use std::io::Write;
use std::path::Path;

use sv3_tests::failure::{Failure, Result};

use crate::workload::Workload;

const HEAD: &str = "switch,workload,value,unit,switch_cpu,device_cpu,guest_cpu,idle_processors,resent";

/// The result of one load on one switch.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The switch's name.
    pub contender: String,
    /// The workload's name.
    pub workload: String,
    /// In the workload's unit.
    pub value: f64,
    /// Processor seconds of the switch for each piece of the workload's work.
    pub switch: f64,
    /// The same of QEMU's devices.
    pub devices: f64,
    /// The same of the guests' processors.
    pub guests: f64,
    /// How many processors had nothing to do.
    pub idle: f64,
    /// TCP segments that were sent again, for each GiB.
    pub resent: f64,
}

impl Sample {
    /// A line of progress.
    pub fn words(&self, workload: Workload) -> String {
        let (_, unit, scale) = workload.work();
        let [switch, devices, guests] = [self.switch, self.devices, self.guests].map(|time| time * scale);
        let Sample { value, idle, resent, .. } = self;
        format!(
            "{value:9.2} {}; {unit} of switch {switch:.1}, devices {devices:.1}, guests {guests:.1}; idle {idle:.2}; \
             resent {resent:.0}",
            workload.unit()
        )
    }

    fn line(&self) -> String {
        let Sample { contender, workload, value, switch, devices, guests, idle, resent } = self;
        let unit = Workload::ALL.into_iter().find(|known| known.name() == *workload).map_or("", Workload::unit);
        format!("{contender},{workload},{value},{unit},{switch:e},{devices:e},{guests:e},{idle:.3},{resent:.1}")
    }

    fn parse(line: &str) -> Option<Sample> {
        let [contender, workload, value, _, switch, devices, guests, idle, resent] =
            line.split(',').collect::<Vec<_>>()[..]
        else {
            return None;
        };
        Some(Sample {
            contender: contender.to_string(),
            workload: workload.to_string(),
            value: value.parse().ok()?,
            switch: switch.parse().ok()?,
            devices: devices.parse().ok()?,
            guests: guests.parse().ok()?,
            idle: idle.parse().ok()?,
            resent: resent.parse().ok()?,
        })
    }
}

/// The samples of a file; none if there is no file yet.
pub fn load(file: &Path) -> Result<Vec<Sample>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(file)?;
    let foreign = |line: &str| Failure::new(format!("{} has a line that is not ours: {line}", file.display()));
    let lines = text.lines().filter(|line| *line != HEAD);
    lines.map(|line| Sample::parse(line).ok_or_else(|| foreign(line))).collect()
}

/// Adds a sample to a file.
pub fn append(file: &Path, sample: &Sample) -> Result<()> {
    let mut output = fs::File::options().create(true).append(true).open(file)?;
    let head = if output.metadata()?.len() == 0 { format!("{HEAD}\n") } else { String::new() };
    Ok(output.write_all(format!("{head}{}\n", sample.line()).as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_back_what_it_was_given() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("samples.csv");
        let sample = Sample {
            contender: "sv3".into(),
            workload: "TCP_RR".into(),
            value: 1234.5,
            switch: 2.5e-6,
            devices: 1e-6,
            guests: 0.25,
            idle: 0.5,
            resent: 7.0,
        };
        assert_eq!(load(&file).unwrap(), []);
        append(&file, &sample).unwrap();
        append(&file, &sample).unwrap();
        assert_eq!(load(&file).unwrap(), [sample.clone(), sample]);
        fs::write(&file, "a,b\n").unwrap();
        assert!(load(&file).is_err());
    }
}
