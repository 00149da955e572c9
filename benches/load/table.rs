//! What was found out, for people and for programs.

use std::fmt::Write;

use serde_json::{Value, json};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    Bytes,
    Seconds,
}

/// What decides whether a row is good.
#[derive(Clone, Copy)]
pub enum Target {
    /// Nothing: the row is there to compare with.
    Shown,
    RatioAtLeast(f64),
    RatioAtMost(f64),
    ValueAtMost(f64),
}

pub struct Row {
    pub scenario: String,
    pub unit: Unit,
    pub cpd: Option<f64>,
    pub limit: Option<f64>,
    pub ratio: Option<f64>,
    pub target: Target,
    pub note: String,
}

impl Row {
    pub fn new(scenario: impl Into<String>, unit: Unit) -> Row {
        let scenario = scenario.into();
        Row { scenario, unit, cpd: None, limit: None, ratio: None, target: Target::Shown, note: String::new() }
    }

    /// Whether the target is met; `None` without a target or without what it judges.
    fn ok(&self) -> Option<bool> {
        match self.target {
            Target::Shown => None,
            Target::RatioAtLeast(least) => self.ratio.map(|ratio| ratio >= least),
            Target::RatioAtMost(most) => self.ratio.map(|ratio| ratio <= most),
            Target::ValueAtMost(most) => self.cpd.map(|value| value <= most),
        }
    }

    fn target(&self) -> String {
        match self.target {
            Target::Shown => String::new(),
            Target::RatioAtLeast(least) => format!(">= {least:.2}"),
            Target::RatioAtMost(most) => format!("<= {most:.2}"),
            Target::ValueAtMost(most) => format!("<= {}", shown(most, self.unit)),
        }
    }

    fn cells(&self) -> [String; 7] {
        let value = |value: Option<f64>| value.map_or("-".into(), |value| shown(value, self.unit));
        let ratio = self.ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
        let ok = match self.ok() {
            None => "",
            Some(true) => "yes",
            Some(false) => "NO",
        };
        let (cpd, limit) = (value(self.cpd), value(self.limit));
        [self.scenario.clone(), cpd, limit, ratio, self.target(), ok.into(), self.note.clone()]
    }

    fn json(&self) -> Value {
        let unit = match self.unit {
            Unit::PerSecond => "1/s",
            Unit::Bytes => "B",
            Unit::Seconds => "s",
        };
        json!({
            "scenario": self.scenario, "unit": unit, "cpd": self.cpd, "limit": self.limit, "ratio": self.ratio,
            "target": self.target(), "ok": self.ok(), "note": self.note,
        })
    }
}

/// The rows, aligned: text to the left, numbers to the right.
pub fn render(rows: &[Row]) -> String {
    let heads = ["scenario", "cpd", "limit", "ratio", "target", "ok?", "note"].map(String::from);
    let lines: Vec<_> = std::iter::once(heads).chain(rows.iter().map(Row::cells)).collect();
    let mut widths = [0; 7];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for [scenario, cpd, limit, ratio, target, ok, note] in &lines {
        let [w0, w1, w2, w3, w4, w5, _] = widths;
        let line =
            format!("{scenario:w0$} | {cpd:>w1$} | {limit:>w2$} | {ratio:>w3$} | {target:w4$} | {ok:w5$} | {note}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

pub fn to_json(machine: &str, rows: &[Row]) -> Value {
    json!({ "machine": machine, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() })
}

/// A value with three digits and its unit.
pub fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond if value >= 1e4 => format!("{:.1}k/s", value / 1e3),
        Unit::PerSecond => format!("{value:.0}/s"),
        Unit::Bytes if value >= 1e6 => format!("{:.1} MB", value / 1e6),
        Unit::Bytes => format!("{value:.0} B"),
        Unit::Seconds if value >= 1.0 => format!("{value:.2} s"),
        Unit::Seconds if value >= 1e-3 => format!("{:.2} ms", value * 1e3),
        Unit::Seconds => format!("{:.1} us", value * 1e6),
    }
}

/// The middle value; the mean of both middle ones when their number is even. `None` of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some((upper + lower) / 2.0)
}
