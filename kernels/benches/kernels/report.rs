//! The table, and the same numbers as JSON.

use std::io::Write;

use kiln_kernels::distance::Isa;

use crate::Cost;
use crate::peaks::{Peaks, Store, Unit};
use crate::timing::Timing;

/// Prints the table and writes the file.
pub fn report(isa: Isa, peaks: &Peaks, timed: &[(String, Cost, Timing)], json: Option<&str>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let giga = |x: f64| x / 1e9;
    let stream: Vec<String> = peaks.stream.iter().map(|(name, x)| format!("{name} {:.1}", giga(*x))).collect();
    let read = Store::ALL.map(|store| format!("{} {:.1}", store.name(), giga(peaks.read[store as usize])));
    writeln!(out, "peaks of one thread; kernels run on {}", isa.name())?;
    writeln!(out, "  GB/s   {}; read {}", stream.join(", "), read.join(", "))?;
    for set in Isa::supported() {
        let units = Unit::ALL.map(|unit| format!("{} {:.0}", unit.name(), giga(peaks.operations(set, unit))));
        writeln!(out, "  Gop/s  {:6} {}", set.name(), units.join(", "))?;
    }
    writeln!(out)?;
    let head = ["time", "quartiles", "GB/s", "Gop/s", "share", "bound"];
    let [a, b, c, d, e, f] = head;
    writeln!(out, "{:48} {a:>9} {b:>17} {c:>7} {d:>7} {e:>6}  {f}", "kernel/shape")?;
    let mut lines = Vec::new();
    for (name, cost, timing) in timed {
        let (bytes, operations) = (cost.bytes / timing.median, cost.operations / timing.median);
        let moved = bytes / peaks.read[cost.store as usize];
        let computed = operations / peaks.operations(isa, cost.unit);
        let (share, bound) = if moved > computed { (moved, cost.store.name()) } else { (computed, cost.unit.name()) };
        let quartiles = format!("{}-{}", short(timing.low), short(timing.high));
        writeln!(
            out,
            "{name:48} {:>9} {quartiles:>17} {:7.1} {:7.1} {:5.0}%  {bound}",
            short(timing.median),
            giga(bytes),
            giga(operations),
            100.0 * share,
        )?;
        lines.push(serde_json::json!({
            "kernel": name, "seconds": timing.median, "seconds_quartiles": [timing.low, timing.high],
            "bytes": cost.bytes, "operations": cost.operations, "bytes_per_second": bytes,
            "operations_per_second": operations, "share_of_peak": share, "bound": bound,
        }));
    }
    let Some(path) = json else { return Ok(()) };
    let named = |(name, x): &(&str, f64)| (name.to_string(), serde_json::json!(x));
    let read = Store::ALL.map(|store| (store.name().to_owned(), serde_json::json!(peaks.read[store as usize])));
    let compute: Vec<_> = peaks.compute.iter().map(|(isa, unit, x)| (format!("{isa}/{}", unit.name()), *x)).collect();
    let all = serde_json::json!({
        "isa": isa.name(),
        "stream_bytes_per_second": serde_json::Map::from_iter(peaks.stream.iter().map(named)),
        "read_bytes_per_second": serde_json::Map::from_iter(read),
        "operations_per_second": serde_json::Map::from_iter(compute.into_iter().map(|(k, x)| (k, x.into()))),
        "kernels": lines,
    });
    std::fs::write(path, format!("{all:#}\n"))
}

/// Seconds in three digits.
fn short(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "us"),
        s => (s * 1e3, "ms"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}{unit}")
}
