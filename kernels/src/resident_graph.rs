//! A graph that is searched more than once: on the host, and what a device keeps of it between searches.
//!
//! In: an [`Adjacency`] whose every edge names one of its rows. Out: what [`Backend::graph_search`](crate::Backend::graph_search)
//! walks, made by [`Backend::upload_graph`](crate::Backend::upload_graph) of the same backend.

use std::any::Any;
use std::sync::Arc;

use crate::adjacency::Adjacency;
use crate::backend::BackendError;
use crate::graph_search::OPERATION;

/// A sound graph, and its part on a device where it has one.
pub struct ResidentGraph {
    host: Arc<Adjacency>,
    /// Of the backend that made it, in a type of its own.
    part: Option<Box<dyn Any + Send + Sync>>,
}

impl ResidentGraph {
    /// A graph on the host alone, for backends that walk there.
    ///
    /// # Errors
    /// Edges of rows that the graph has not, or lengths that do not fit together.
    pub fn new(graph: Arc<Adjacency>) -> Result<Self, BackendError> {
        graph.check(OPERATION, graph.len())?;
        Ok(Self { host: graph, part: None })
    }

    /// The same with what a device holds of it.
    pub(crate) fn with_part<T: Any + Send + Sync>(self, part: T) -> Self {
        Self { part: Some(Box::new(part)), ..self }
    }

    /// The graph on the host.
    pub fn host(&self) -> &Arc<Adjacency> {
        &self.host
    }

    /// What a device holds of it, where it is of this type.
    pub(crate) fn part<T: Any>(&self) -> Option<&T> {
        self.part.as_ref()?.downcast_ref()
    }
}
