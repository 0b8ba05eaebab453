//! IVF-PQ: inverted lists of product-quantised residuals, re-ranked by exact distances.

pub(crate) mod build;
pub(crate) mod layout;
pub(crate) mod search;
