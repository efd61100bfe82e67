//! What is said about the samples: rows of medians, a table with ratios, and whether the bars are met.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::cases::{Case, Server};
use crate::clients::Kind;
use crate::drive::Sample;

/// One client's medians in one case: a line of the JSON file.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) case: Case,
    pub(crate) client: Kind,
    #[serde(flatten)]
    pub(crate) sample: Sample,
    /// Calls that were open and unanswered meanwhile.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) held: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// The median of each figure by itself, to the third decimal. There is at least one sample.
pub(crate) fn medians(samples: &[Sample]) -> Sample {
    let median = |figure: fn(&Sample) -> f64| {
        let mut values: Vec<_> = samples.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        (median * 1e3).round() / 1e3
    };
    Sample {
        calls_per_s: median(|sample| sample.calls_per_s),
        cpu_us_per_call: median(|sample| sample.cpu_us_per_call),
        p50_us: median(|sample| sample.p50_us),
        p99_us: median(|sample| sample.p99_us),
        allocs_per_call: median(|sample| sample.allocs_per_call),
        alloc_bytes_per_call: median(|sample| sample.alloc_bytes_per_call),
    }
}

fn find(rows: &[Row], case: Case, client: Kind) -> Option<&Sample> {
    rows.iter().find(|row| row.case == case && row.client == client).map(|row| &row.sample)
}

/// All rows, with the CPU time per call of each client as a ratio to each peer's.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut out = format!(
        "{:<32} {:<12}{:>10} {:>9} {:>9} {:>9} {:>8} {:>9}   {:>8} {:>8} {:>8}\n",
        "case",
        "client",
        "calls/s",
        "CPU us",
        "p50 us",
        "p99 us",
        "allocs",
        "alloc B",
        "x raw-h2",
        "x tonic",
        "x grpc",
    );
    let mut last = None;
    for row in rows {
        let Row { case, client, sample, .. } = row;
        let name = if last == Some(*case) { String::new() } else { case.to_string() };
        last = Some(*case);
        let ratio = |peer| match find(rows, *case, peer) {
            Some(other) if *client != peer => {
                format!("{:.2}", sample.cpu_us_per_call / other.cpu_us_per_call)
            }
            _ => "-".to_owned(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{name:<32} {client:<12}{:>10.0} {:>9.3} {:>9.2} {:>9.2} {:>8.1} {:>9.0}   {:>8} {:>8} {:>8}",
            sample.calls_per_s,
            sample.cpu_us_per_call,
            sample.p50_us,
            sample.p99_us,
            sample.allocs_per_call,
            sample.alloc_bytes_per_call,
            ratio(Kind::RawH2),
            ratio(Kind::Tonic),
            ratio(Kind::Grpc),
        );
    }
    out
}

/// What a bar is about.
#[derive(Clone, Copy, Debug)]
enum Figure {
    Cpu,
    P50,
    Allocs,
    AllocBytes,
}

impl Figure {
    fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Cpu => sample.cpu_us_per_call,
            Self::P50 => sample.p50_us,
            Self::Allocs => sample.allocs_per_call,
            Self::AllocBytes => sample.alloc_bytes_per_call,
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "CPU per call",
            Self::P50 => "p50",
            Self::Allocs => "allocations per call",
            Self::AllocBytes => "bytes allocated per call",
        })
    }
}

/// What switchboard must reach in a case.
#[derive(Clone, Copy, Debug)]
struct Bar {
    case: Case,
    figure: Figure,
    /// At most this, as a multiple of the peer's figure if there is a peer.
    at_most: f64,
    peer: Option<Kind>,
}

impl Bar {
    const fn ratio(case: Case, figure: Figure, peer: Kind, at_most: f64) -> Self {
        Self { case, figure, at_most, peer: Some(peer) }
    }

    const fn absolute(case: Case, figure: Figure, at_most: f64) -> Self {
        Self { case, figure, at_most, peer: None }
    }

    /// What was reached; `None` when a side of it was not measured.
    fn reached(&self, rows: &[Row]) -> Option<f64> {
        let figure_of = |client| find(rows, self.case, client).map(|it| self.figure.of(it));
        let own = figure_of(Kind::Switchboard)?;
        match self.peer {
            Some(peer) => Some(own / figure_of(peer)?),
            None => Some(own),
        }
    }
}

const BARS: [Bar; 13] = [
    Bar::ratio(NULL_16, Figure::Cpu, Kind::RawH2, 1.15),
    Bar::ratio(NULL_128, Figure::Cpu, Kind::RawH2, 1.15),
    Bar::ratio(NULL_128, Figure::Cpu, Kind::Tonic, 0.60),
    Bar::ratio(NULL_1, Figure::P50, Kind::Tonic, 1.00),
    Bar::absolute(NULL_128, Figure::Allocs, 18.0),
    Bar::absolute(NULL_128, Figure::AllocBytes, 4000.0),
    Bar::ratio(Case::unary(Server::NullTls, 128, 32), Figure::Cpu, Kind::Tonic, 0.70),
    Bar::ratio(Case::unary(Server::Tonic, 128, 32), Figure::Cpu, Kind::Tonic, 0.90),
    Bar::ratio(Case::unary(Server::Tonic, 128, 4096), Figure::Cpu, Kind::Tonic, 0.80),
    Bar::ratio(Case::ping_pong(Server::Null, 1), Figure::Cpu, Kind::Tonic, 0.80),
    Bar::ratio(Case::ping_pong(Server::Null, 64), Figure::Cpu, Kind::Tonic, 0.80),
    Bar::ratio(Case::server_stream(Server::Null, 32), Figure::Cpu, Kind::Tonic, 1.00),
    Bar::ratio(Case::server_stream(Server::Null, 64 << 10), Figure::Cpu, Kind::Tonic, 1.00),
];
const NULL_1: Case = Case::unary(Server::Null, 1, 32);
const NULL_16: Case = Case::unary(Server::Null, 16, 32);
const NULL_128: Case = Case::unary(Server::Null, 128, 32);

/// Whether each bar is met.
pub(crate) fn bars(rows: &[Row]) -> String {
    let mut out = String::from("bars of switchboard:\n");
    for bar in &BARS {
        let Bar { case, figure, at_most, peer } = bar;
        let (verdict, reached) = match bar.reached(rows) {
            Some(reached) if reached <= *at_most => ("met", format!("{reached:.2}")),
            Some(reached) => ("MISSED", format!("{reached:.2}")),
            None => ("not measured", "-".to_owned()),
        };
        let unit = peer.map(|peer| format!(" x {peer}")).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "  {verdict:<12} {:<32} {figure}: {reached}, at most {at_most:.2}{unit}",
            case.to_string(),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(figure: f64) -> Sample {
        Sample {
            calls_per_s: figure,
            cpu_us_per_call: figure,
            p50_us: figure,
            p99_us: figure,
            allocs_per_call: figure,
            alloc_bytes_per_call: figure,
        }
    }

    fn row(client: Kind, figure: f64) -> Row {
        Row { case: NULL_128, client, sample: sample(figure), held: 0 }
    }

    #[test]
    fn medians_of_odd_and_even_numbers_of_samples() {
        let odd = [3.0, 1.0, 2.0].map(sample);
        assert!((medians(&odd).p50_us - 2.0).abs() < 1e-9);
        let even = [4.0, 1.0, 2.0, 3.0].map(sample);
        assert!((medians(&even).p50_us - 2.5).abs() < 1e-9);
    }

    #[test]
    fn a_line_of_json_is_flat() {
        let line = serde_json::to_value(row(Kind::RawH2, 1.5)).unwrap();
        let expected = serde_json::json!({
            "case": "unary", "server": "null", "client": "raw-h2",
            "workers": 1, "callers": 128, "bytes": 32,
            "calls_per_s": 1.5, "cpu_us_per_call": 1.5, "p50_us": 1.5, "p99_us": 1.5,
            "allocs_per_call": 1.5, "alloc_bytes_per_call": 1.5,
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn bars_compare_with_the_peer_of_the_same_case() {
        let rows = [row(Kind::Switchboard, 11.0), row(Kind::RawH2, 10.0), row(Kind::Tonic, 16.0)];
        let verdicts = bars(&rows);
        let verdicts: Vec<_> = verdicts.lines().skip(1).collect();
        assert!(verdicts[0].contains("not measured"), "{}", verdicts[0]);
        assert!(verdicts[1].contains("met") && verdicts[1].contains("1.10"));
        assert!(verdicts[2].contains("MISSED") && verdicts[2].contains("0.69"));
        assert!(verdicts[4].contains("met") && verdicts[4].contains("11.00"));
    }
}
