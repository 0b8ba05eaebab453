//! Synthetic sets by name: `synth:rows=100000000,dim=128,dtype=u8,lid=12,seed=1`, whose rows are made as they are read.
//!
//! In: a name. Out: a [`SynthSpec`] and a number of queries. What [`SynthSpec::label`] writes is such a name.

use kiln_kernels::DType;

use crate::error::DatasetError;
use crate::synth::SynthSpec;

/// What a name of a synthetic set begins with.
const PREFIX: &str = "synth:";

const FIELDS: &str = "synth:rows=N,dim=D and, as you like, dtype=f32|f16|u8|i8, lid=L, seed=S, clusters=C, imbalance=I, \
                      queries=Q";

/// Local intrinsic dimension where the name says nothing.
const DEFAULT_LID: f64 = 16.0;

/// The set that `name` describes, and how many queries it has; `None` where it is no name of a synthetic set.
///
/// # Errors
/// When a field is unknown, missing, given twice or not a number; what is out of range is refused when rows are made.
pub(crate) fn parse(name: &str) -> Option<Result<(SynthSpec, u64), DatasetError>> {
    let fields = name.strip_prefix(PREFIX)?;
    Some(parse_fields(fields).map_err(|problem| DatasetError::invalid(name, problem, format!("write {FIELDS}"))))
}

fn parse_fields(fields: &str) -> Result<(SynthSpec, u64), String> {
    let (mut seen, mut rows, mut dim, mut dtype) = (Vec::new(), None, None, DType::F32);
    let (mut lid, mut seed, mut clusters, mut imbalance, mut queries) = (DEFAULT_LID, 0, None, 0.0, 0);
    for field in fields.split(',') {
        let (key, value) = field.split_once('=').ok_or_else(|| format!("{field:?} is not key=value"))?;
        if seen.contains(&key) {
            return Err(format!("{key} is given twice"));
        }
        seen.push(key);
        let refused = || format!("{key} is {value:?}");
        let whole = || value.parse::<u64>().map_err(|_| refused());
        let number = || value.parse::<f64>().map_err(|_| refused());
        match key {
            "rows" => rows = Some(whole()?),
            "dim" => dim = Some(value.parse::<usize>().map_err(|_| refused())?),
            "dtype" => {
                let all = [DType::F32, DType::F16, DType::U8, DType::I8];
                dtype = all.into_iter().find(|dtype| dtype.name() == value).ok_or_else(refused)?;
            }
            "lid" | "intrinsic_dim" => lid = number()?,
            "seed" => seed = whole()?,
            "clusters" => clusters = Some(whole()?),
            "imbalance" => imbalance = number()?,
            "queries" => queries = whole()?,
            _ => return Err(format!("there is no field {key:?}")),
        }
    }
    let (Some(rows), Some(dim)) = (rows, dim) else { return Err("rows and dim must be given".into()) };
    let defaults = SynthSpec::new(rows, dim, lid);
    let clusters = clusters.unwrap_or(defaults.clusters);
    Ok((SynthSpec { seed, dtype, clusters, imbalance, ..defaults }, queries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_to_make() {
        assert!(parse("base.fbin").is_none());
        let (spec, queries) = parse("synth:rows=20000,dim=32,dtype=u8,lid=8,seed=5,queries=7").unwrap().unwrap();
        assert_eq!(spec, SynthSpec { seed: 5, dtype: DType::U8, ..SynthSpec::new(20_000, 32, 8.0) });
        assert_eq!(queries, 7);
        let uneven = SynthSpec { clusters: 3, imbalance: 0.5, ..spec };
        assert_eq!(parse(&uneven.label()).unwrap().unwrap(), (uneven, 0));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (name, says) in [
            ("synth:", "not key=value"),
            ("synth:rows=5", "rows and dim"),
            ("synth:rows=5,dim=4,rows=6", "rows is given twice"),
            ("synth:rows=-5,dim=4", "rows is \"-5\""),
            ("synth:rows=5,dim=4,dtype=f64", "dtype is \"f64\""),
            ("synth:rows=5,dim=4,colour=red", "no field \"colour\""),
        ] {
            let message = parse(name).expect("a synthetic set").expect_err(name).to_string();
            assert!(message.contains(says) && message.contains("synth:rows=N"), "{message}");
        }
    }
}
