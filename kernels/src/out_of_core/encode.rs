//! Pages of nodes and codes of rows that are not resident, part after part.

use ndarray::{Array2, ArrayView2};

use super::{Named, OutOfCore, PartRows};
use crate::backend::{Backend, BackendError, Lists};
use crate::checks::check_rabitq;
use crate::codec::Rabitq;
use crate::dispatch_rows;
use crate::nodes::{NeighborCodes, NodeBlock, Source, VectorRecord, pack};

/// Whole pages at a time: a part holds the rows of their nodes, and where these are coded of the neighbours.
pub(super) fn pack_nodes<B: Backend>(
    backend: &OutOfCore<B>,
    rows: &PartRows<B::Rows>,
    nodes: &NodeBlock<'_>,
) -> Result<Vec<u8>, BackendError> {
    let host = &rows.host;
    nodes.check(host.len(), VectorRecord { dtype: host.dtype(), dim: host.dim(), metric: rows.metric })?;
    if nodes.codes.is_none() {
        // Rows that are not on the device would only travel there and back.
        return Ok(dispatch_rows!(host.view(), v => pack(&Source { rows: v, inverse_norms: &[] }, nodes)));
    }
    let layout = nodes.layout;
    let per_page = layout.nodes_per_page();
    let of_page = |page: usize| page * per_page..nodes.rows.len().min((page + 1) * per_page);
    let mut pages = Vec::with_capacity(layout.section_bytes(nodes.rows.len()));
    backend.in_parts(
        nodes.rows.len().div_ceil(per_page),
        |page| of_page(page).map(|i| 1 + nodes.neighbors(i).len()).sum(),
        |some| {
            let range = of_page(some.start).start..of_page(some.end - 1).end;
            let named = range.clone().flat_map(|i| nodes.neighbors(i)).chain(&nodes.rows[range.clone()]);
            let ids = Named::new(named.copied());
            let places: Lists<u32> = range.clone().map(|i| nodes.places.get(i).to_vec()).collect();
            let neighbors: Vec<u32> = range.clone().flat_map(|i| ids.locals(nodes.neighbors(i))).collect();
            let codes = nodes.codes.map(|codes| NeighborCodes { rows: &neighbors, ..codes });
            let local = NodeBlock { layout, rows: &ids.locals(&nodes.rows[range]), places: &places, codes };
            pages.extend(backend.inner.pack_nodes(&backend.part(rows, &ids)?, &local)?);
            Ok(())
        },
    )?;
    Ok(pages)
}

pub(super) fn rabitq_encode<B: Backend>(
    backend: &OutOfCore<B>,
    rows: &PartRows<B::Rows>,
    ids: &[u32],
    residual_to: (ArrayView2<'_, f32>, &[u32]),
    rabitq: &Rabitq,
) -> Result<Array2<u8>, BackendError> {
    check_rabitq(rows.host.len(), rows.host.dim(), ids, residual_to, rabitq)?;
    let (centroids, assignments) = residual_to;
    let mut codes = Vec::with_capacity(ids.len() * rabitq.row_bytes());
    backend.in_parts(
        ids.len(),
        |_| 1,
        |some| {
            let named = Named::new(ids[some.clone()].iter().copied());
            let (part, local) = (backend.part(rows, &named)?, named.locals(&ids[some.clone()]));
            let some = backend.inner.rabitq_encode(&part, &local, (centroids, &assignments[some]), rabitq)?;
            codes.extend_from_slice(some.as_slice().expect("codes are contiguous by construction"));
            Ok(())
        },
    )?;
    Ok(Array2::from_shape_vec((ids.len(), rabitq.row_bytes()), codes).expect("each part brings a code a row"))
}
