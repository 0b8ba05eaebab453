use kiln_builder::*; use kiln_datasets::*; use kiln_kernels::*; use std::path::Path;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let ds = Dataset::open(&a[1], Path::new("/tmp")).unwrap();
    let out = Path::new(&a[3]);
    let kind = if a[2] == "ivf" { IndexKind::IvfPq } else { IndexKind::Vamana };
    let metric = ds.metric.unwrap();
    if a.get(4).map(|s| s.as_str()) != Some("skip") {
        let req = BuildRequest { source: ds.base.as_ref(), dataset_name: ds.name.clone(), dataset_fingerprint: ds.fingerprint.clone(), metric, params: IndexParams::defaults(kind, ds.base.len(), ds.base.dim()), out };
        let r = build(&CpuBackend::new(), &req, &NoProgress).unwrap();
        println!("{:?} total {:.1} cpu {:.1} rss {} MiB bytes {}", r.stage_seconds, r.total_seconds, r.cpu_seconds, r.peak_rss_bytes >> 20, r.index_bytes);
    }
    let s = Index::open(out, Residency::Memory).unwrap();
    let q = read_all(ds.queries.as_ref().unwrap().as_ref(), |_| ()).unwrap();
    let truth = ds.truth.unwrap();
    let efforts: Vec<Effort> = match kind {
        IndexKind::Vamana => [10,15,20, 30, 40, 60, 80].iter().flat_map(|&l| [Navigate::Exact, Navigate::Codes].map(|n| Effort::Graph { search_list: l, navigate: n })).collect(),
        IndexKind::IvfPq => [8, 16, 32, 64, 128, 256].iter().map(|&p| Effort::Lists { nprobe: p, rerank: 200 }).collect(),
    };
    for effort in efforts {
        let t = std::time::Instant::now();
        let mut hits = 0; let mut dist = 0; let mut hops = 0;
        for i in 0..q.len() {
            let h = s.search(&q.view().slice(i..i + 1), &SearchParams { k: 10, effort }).unwrap();
            dist += h.stats.distances; hops += h.stats.hops;
            let t = truth.ids.row(i);
            let dk = truth.distances.as_ref().unwrap()[(i, 9)];
            let _ = t;
            hits += h.distances.iter().filter(|d| **d <= dk + 1e-5 * dk.abs().max(1.0)).count();
        }
        let n = q.len() as f64;
        println!("{effort:?} recall {:.4} qps {:.0} dist {:.0} hops {:.0}", hits as f64 / n / 10.0, n / t.elapsed().as_secs_f64(), dist as f64 / n, hops as f64 / n);
    }
}
