//! A picture of the medians: a chart for each scenario, a group of bars for each load, a bar for each switch.

use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use sv3_tests::distance::Distance;
use sv3_tests::failure::{Failure, Result};
use sv3_tests::image::{Suite, program};

use crate::report::{Case, column, median};

const WIDTH: usize = 1000;
const HEIGHT: usize = 380;

/// Draws cases with gnuplot.
pub fn draw(cases: &[Case], path: &Path) -> Result<()> {
    let groups: Vec<&[Case]> = cases.chunk_by(|a, b| a.scenario == b.scenario && name(a) == name(b)).collect();
    let mut script = String::new();
    // The fonts of this terminal are its own: none need be installed.
    writeln!(script, "set terminal png noenhanced size {WIDTH},{}", HEIGHT * groups.len())?;
    writeln!(script, "set output {}", quoted(&path.display().to_string()))?;
    writeln!(script, "set multiplot layout {},1", groups.len())?;
    writeln!(
        script,
        "set style data histogram; set style histogram clustered gap 1; set style fill solid 0.8 border -1"
    )?;
    writeln!(
        script,
        "set boxwidth 0.9; set grid ytics; set key outside right; set datafile missing '?'; set yrange [0:*]"
    )?;
    for (at, group) in groups.iter().enumerate() {
        chart(&mut script, at, group)?;
    }
    let mut gnuplot = program(Suite::Plot, "gnuplot-nox")?.stdin(Stdio::piped()).spawn()?;
    if let Some(stdin) = &mut gnuplot.stdin {
        stdin.write_all(script.as_bytes())?;
    }
    match gnuplot.wait_with_output()?.status {
        status if status.success() => Ok(()),
        status => Err(Failure::new(format!("gnuplot ended: {status}"))),
    }
}

fn chart(script: &mut String, number: usize, cases: &[Case]) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in cases.iter().flat_map(|case| &case.entries) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    writeln!(script, "$data{number} << END")?;
    for case in cases {
        let distance = match case.usual_distance() {
            Some(Distance::Near) => ", near",
            Some(Distance::Far) => ", far",
            None => "",
        };
        write!(script, "{}", quoted(&narrow(&format!("{}{distance}", case.load))))?;
        for name in &names {
            let entry = case.entries.iter().find(|(entry, _)| entry == name);
            let value = entry.zip(case.usual_distance()).map(|((_, samples), at)| median(&column(samples, 0, at)));
            match value.filter(|value| value.is_finite()) {
                Some(value) => write!(script, " {value}")?,
                None => write!(script, " ?")?,
            }
        }
        writeln!(script)?;
    }
    writeln!(script, "END")?;
    let Some(first) = cases.first() else { return Ok(()) };
    writeln!(script, "set title {}", quoted(&format!("{}, {}", first.scenario, first.conditions)))?;
    writeln!(script, "set ylabel {}", quoted(name(first)))?;
    let bars = names.iter().enumerate().map(|(at, name)| {
        let labels = if at == 0 { ":xtic(1)" } else { "" };
        format!("$data{number} using {}{labels} title {}", at + 2, quoted(name))
    });
    writeln!(script, "plot {}", bars.collect::<Vec<_>>().join(", "))?;
    Ok(())
}

/// What is compared.
fn name(case: &Case) -> &str {
    case.figures.first().map_or("", |figure| figure.name)
}

/// In lines that find room below a bar, as far as words allow.
fn narrow(text: &str) -> String {
    const WIDTH: usize = 14;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut().filter(|line| line.len() + word.len() < WIDTH && !line.ends_with(',')) {
            Some(line) => *line = format!("{line} {word}"),
            None => lines.push(word.to_string()),
        }
    }
    lines.join(", ").replace(",,", ",")
}

/// As gnuplot wants it; long labels are broken at commas.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace(['"', '\\'], "").replace(", ", "\\n"))
}
