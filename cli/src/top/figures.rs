//! Numbers as people read them: three digits and a unit.

/// A rate, a second: `0`, `0.5`, `999`, `1.00k`, `14.9M`, `100G`. Five characters at most.
pub fn figure(value: f64) -> String {
    const UNITS: [(f64, &str); 5] = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let value = if value.is_finite() { value.max(0.0) } else { 0.0 };
    if value == 0.0 {
        return "0".to_string();
    }
    if value < 9.95 {
        return format!("{value:.1}");
    }
    // What rounds to 1000 of a unit is 1.00 of the next one.
    let unit = UNITS.into_iter().find(|(size, _)| value >= size * 0.9995).filter(|_| value >= 999.5);
    let Some((size, name)) = unit else { return format!("{value:.0}") };
    match value / size {
        few if few < 9.995 => format!("{few:.2}{name}"),
        some if some < 99.95 => format!("{some:.1}{name}"),
        many => format!("{:.0}{name}", many.min(999.0)),
    }
}

/// A share of time: `0 %`, `0.3 %`, `12 %`, `250 %` (of several rings, or several processors).
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        value if !value.is_finite() || value <= 0.0 => "0 %".to_string(),
        value if value < 0.1 => "<0.1 %".to_string(),
        value if value < 9.95 => format!("{value:.1} %"),
        value => format!("{:.0} %", value.min(9999.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_fit() {
        for (value, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (12.4, "12"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1234.0, "1.23k"),
            (14_880_000.0, "14.9M"),
            (999_600.0, "1.00M"),
            (100e9, "100G"),
            (f64::NAN, "0"),
            (f64::INFINITY, "0"),
            (1e300, "999P"),
            (-1.0, "0"),
        ] {
            assert_eq!(figure(value), text, "{value}");
        }
        let values = (0..4000).map(|n| 1.005f64.powi(n));
        assert!(values.map(figure).all(|text| text.len() <= 5));
    }

    #[test]
    fn shares_are_percent() {
        let text = [0.0, 0.0001, 0.003, 0.12, 2.5, f64::NAN].map(percent);
        assert_eq!(text, ["0 %", "<0.1 %", "0.3 %", "12 %", "250 %", "0 %"]);
    }
}
