//! A file system in memory, without the files' data.
//!
//! Nodes live in one list and name each other by number, so that nothing here recurses, however deep
//! an image nests. What was replaced or removed stays in the list, unreachable: it is bounded by
//! [`Limits::entries`](crate::Limits) and short-lived.

use std::collections::BTreeMap;

/// A node's place in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(u32);

/// The directory everything is in.
pub(crate) const ROOT: NodeId = NodeId(0);

/// The longest name of one file, in Linux and in EROFS.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// The longest path and symlink target, without the final NUL.
pub(crate) const MAX_PATH_BYTES: usize = 4095;

#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
}

/// What `stat` tells, but for the names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) meta: Meta,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Permissions, setuid, setgid and sticky: 12 bits.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) xattrs: Xattrs,
}

/// Since 1970. The order of fields is the order of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

/// Extended attributes, whole name (`security.capability`) to value.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory(Directory),
    File(Data),
    Symlink(Box<[u8]>),
    Block(Device),
    Character(Device),
    Fifo,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Directory {
    pub(crate) parent: NodeId,
    pub(crate) children: BTreeMap<Box<[u8]>, Child>,
    /// The last layer that put something in here, however deep.
    pub(crate) touched: Layer,
    /// The last layer that hid everything in here that was not its own.
    pub(crate) opaque: Layer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) node: NodeId,
    /// The layer that gave it this name.
    pub(crate) layer: Layer,
}

/// The number of a layer, the lowest 1.
pub(crate) type Layer = u32;

/// Where a file's bytes are in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Tree {
    /// An empty directory that belongs to root.
    pub(crate) fn new() -> Self {
        let mut tree = Self { nodes: Vec::new() };
        tree.add_directory(ROOT, Meta { mode: 0o755, ..Meta::default() });
        tree
    }

    /// A node that has no name yet. There are fewer than 2³² of them: see `Limits::entries`.
    pub(crate) fn add(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(node);
        id
    }

    pub(crate) fn add_directory(&mut self, parent: NodeId, meta: Meta) -> NodeId {
        let directory = Directory { parent, children: BTreeMap::new(), touched: 0, opaque: 0 };
        self.add(Node { meta, kind: Kind::Directory(directory) })
    }

    /// How many nodes were ever added.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    pub(crate) fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    pub(crate) fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.node_mut(id).kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }
}

impl NodeId {
    /// As an index into something that has a place for each of [`Tree::len`] nodes.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}
