//! Layers, one on top of the other, become one tree.
//!
//! A layer is a tar archive of what changed: entries to add or replace, and *whiteouts*, empty files
//! that take away what lower layers have: `.wh.name` takes `name`, `.wh..wh..opq` everything in its
//! directory. Whiteouts are about lower layers only, wherever in the archive they stand (OCI image
//! specification, "Layer Filesystem Changeset").
//!
//! Names are resolved inside this tree and nowhere else. A symbolic link on the way is followed, with
//! the tree's root as its `/` (Debian's `/lib` is one, and layers write through it); directories
//! missing on the way are made. A name that begins with `/` or has a `..` in it is refused, and so is
//! a hard link to anything that is not there. A name given twice means the second.

mod error;

use crate::Limits;
use crate::erofs::{MAX_DEVICE, MAX_XATTRS_BYTES, split_xattr, xattrs_bytes};
use crate::tarball::{Body, Entry, shown};
use crate::tree::{
    Child, Data, Device, Kind, Layer, MAX_NAME_BYTES, MAX_PATH_BYTES, Meta, Node, NodeId, ROOT,
    Time, Tree, Xattrs,
};

pub use error::{MergeError, Why};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Notes that aufs kept for itself.
const AUFS: &[u8] = b".wh..wh.";

/// As many symbolic links as Linux follows in one path.
const MAX_LINKS: u32 = 40;

/// The most names on the way to one entry, those in links counted: more than a path can hold.
const MAX_STEPS: u32 = 4096;

/// A tree that layers are put on.
pub(crate) struct Merge {
    tree: Tree,
    layer: Layer,
    limits: Limits,
    entries: u32,
    metadata_bytes: u64,
}

impl Merge {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { tree: Tree::new(), layer: 0, limits: *limits, entries: 0, metadata_bytes: 0 }
    }

    /// What follows belongs to the next layer up.
    pub(crate) fn begin_layer(&mut self) {
        self.layer += 1;
    }

    /// Puts an entry of the current layer in the tree, or does what it says if it is a whiteout;
    /// `data` is where its bytes are, if it is a file. After an error the tree is of no use.
    pub(crate) fn put(&mut self, entry: Entry, data: Data) -> Result<(), MergeError> {
        let last = entry.name.rsplit(|&byte| byte == b'/').find(|part| !part.is_empty());
        if !last.is_some_and(|last| last.starts_with(WHITEOUT)) {
            return self.add(entry, data);
        }
        self.whiteout(&entry.name).map_err(|why| MergeError { entry: shown(&entry.name), why })
    }

    /// Puts an entry in the tree whatever its name.
    pub(crate) fn add(&mut self, entry: Entry, data: Data) -> Result<(), MergeError> {
        let name = entry.name.clone();
        self.put_entry(entry, data).map_err(|why| MergeError { entry: shown(&name), why })
    }

    pub(crate) fn into_tree(self) -> Tree {
        self.tree
    }

    fn put_entry(&mut self, entry: Entry, data: Data) -> Result<(), Why> {
        self.count_entry()?;
        let path = parts(&entry.name)?;
        let Some((&name, parents)) = path.split_last() else { return self.put_root(entry) };
        if let Body::HardLink(target) = &entry.body {
            // Found before anything is made on the way to its new name.
            let node = self.link_target(target)?;
            let parent = self.directory_at(parents)?;
            self.name(parent, name, node)?;
            self.touch(parent);
            return Ok(());
        }
        let kind = kind(entry.body, data)?;
        let meta = self.meta(entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs)?;
        let parent = self.directory_at(parents)?;
        let Some(kind) = kind else { return self.put_directory(parent, name, meta) };
        if let Kind::Symlink(target) = &kind {
            self.count_metadata(target.len())?;
        }
        let node = self.tree.add(Node { meta, kind });
        self.name(parent, name, node)?;
        self.touch(parent);
        Ok(())
    }

    /// A directory that was there keeps what it holds.
    fn put_directory(&mut self, parent: NodeId, name: &[u8], meta: Meta) -> Result<(), Why> {
        let existing = self.child(parent, name).map(|child| child.node);
        let node = match existing.filter(|&node| self.tree.directory(node).is_some()) {
            Some(node) => {
                self.tree.node_mut(node).meta = meta;
                node
            }
            None => self.tree.add_directory(parent, meta),
        };
        self.name(parent, name, node)?;
        self.touch(node);
        Ok(())
    }

    fn put_root(&mut self, entry: Entry) -> Result<(), Why> {
        if entry.body != Body::Directory {
            return Err(Why::RootNotDirectory);
        }
        self.tree.node_mut(ROOT).meta =
            self.meta(entry.mode, entry.uid, entry.gid, entry.mtime, entry.xattrs)?;
        self.touch(ROOT);
        Ok(())
    }

    fn whiteout(&mut self, path: &[u8]) -> Result<(), Why> {
        self.count_entry()?;
        let path = parts(path)?;
        let Some((&name, parents)) = path.split_last() else { return Err(Why::Whiteout) };
        let hidden = name.strip_prefix(WHITEOUT).unwrap_or_default();
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Why::Whiteout);
        }
        let Some(parent) = self.walk(parents, Missing::Stop)? else { return Ok(()) };
        if name == OPAQUE {
            self.hide_lower(parent);
        } else if !name.starts_with(AUFS) {
            match self.child(parent, hidden) {
                Some(child) if self.is_current(child) => self.hide_lower(child.node),
                Some(_) => self.unname(parent, hidden),
                None => {}
            }
        }
        Ok(())
    }

    /// Takes away everything in `top` that no entry of the current layer put there.
    fn hide_lower(&mut self, top: NodeId) {
        let mut pending = vec![top];
        while let Some(node) = pending.pop() {
            let layer = self.layer;
            let Some(directory) = self.tree.directory_mut(node) else { continue };
            // Done already: what came since is of this layer. A layer may say so a million times.
            if std::mem::replace(&mut directory.opaque, layer) == layer {
                continue;
            }
            let children = std::mem::take(&mut directory.children);
            let kept: Vec<_> =
                children.into_iter().filter(|(_, child)| self.is_current(*child)).collect();
            pending.extend(kept.iter().map(|(_, child)| child.node));
            if let Some(directory) = self.tree.directory_mut(node) {
                directory.children.extend(kept);
            }
        }
    }

    /// Whether `child` is, or holds, something of the current layer.
    fn is_current(&self, child: Child) -> bool {
        match self.tree.directory(child.node) {
            Some(directory) => directory.touched == self.layer,
            None => child.layer == self.layer,
        }
    }

    fn link_target(&mut self, target: &[u8]) -> Result<NodeId, Why> {
        let path = match parts(target) {
            Ok(path) => path,
            Err(Why::Absolute | Why::Climbs) => return Err(Why::LinkLeaves(shown(target))),
            Err(why) => return Err(why),
        };
        let nothing = || Why::LinkToNothing(shown(target));
        let Some((&name, parents)) = path.split_last() else {
            return Err(Why::LinkToDirectory(shown(target)));
        };
        let parent = self.walk(parents, Missing::Stop)?.ok_or_else(nothing)?;
        let child = self.child(parent, name).ok_or_else(nothing)?;
        match self.tree.directory(child.node) {
            Some(_) => Err(Why::LinkToDirectory(shown(target))),
            None => Ok(child.node),
        }
    }

    fn directory_at(&mut self, path: &[&[u8]]) -> Result<NodeId, Why> {
        // With `Missing::Make` there is always one.
        Ok(self.walk(path, Missing::Make)?.unwrap_or(ROOT))
    }

    /// The directory that `path` leads to from the root, symbolic links followed.
    fn walk(&mut self, path: &[&[u8]], missing: Missing) -> Result<Option<NodeId>, Why> {
        let mut here = ROOT;
        let (mut links, mut steps) = (0, 0);
        let mut ahead: Vec<Vec<u8>> = path.iter().rev().map(|part| part.to_vec()).collect();
        while let Some(part) = ahead.pop() {
            steps += 1;
            if links > MAX_LINKS || steps > MAX_STEPS {
                return Err(Why::TooFar);
            }
            let Some(directory) = self.tree.directory(here) else { return Ok(None) };
            if part == b".." {
                // Only links have these; the root is its own parent.
                here = directory.parent;
                continue;
            }
            let Some(&child) = directory.children.get(&*part) else {
                match missing {
                    Missing::Stop => return Ok(None),
                    Missing::Make => here = self.make_directory(here, &part)?,
                }
                continue;
            };
            match &self.tree.node(child.node).kind {
                Kind::Directory(_) => here = child.node,
                Kind::Symlink(target) => {
                    links += 1;
                    if target.starts_with(b"/") {
                        here = ROOT;
                    }
                    let parts = target.split(|&byte| byte == b'/');
                    let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
                    ahead.extend(parts.rev().map(<[u8]>::to_vec));
                }
                _ => return Err(Why::NotDirectory(shown(&part))),
            }
        }
        Ok(Some(here))
    }

    fn make_directory(&mut self, parent: NodeId, name: &[u8]) -> Result<NodeId, Why> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Why::NameTooLong);
        }
        self.count_entry()?;
        let node = self.tree.add_directory(parent, Meta { mode: 0o755, ..Meta::default() });
        self.name(parent, name, node)?;
        Ok(node)
    }

    fn child(&self, parent: NodeId, name: &[u8]) -> Option<Child> {
        self.tree.directory(parent)?.children.get(name).copied()
    }

    fn name(&mut self, parent: NodeId, name: &[u8], node: NodeId) -> Result<(), Why> {
        self.count_metadata(name.len())?;
        let child = Child { node, layer: self.layer };
        if let Some(directory) = self.tree.directory_mut(parent) {
            directory.children.insert(name.into(), child);
        }
        Ok(())
    }

    fn unname(&mut self, parent: NodeId, name: &[u8]) {
        if let Some(directory) = self.tree.directory_mut(parent) {
            directory.children.remove(name);
        }
    }

    /// Notes that the current layer put something in `node`, and so in all above it.
    fn touch(&mut self, node: NodeId) {
        let layer = self.layer;
        let mut here = node;
        while let Some(directory) = self.tree.directory_mut(here)
            && directory.touched != layer
        {
            directory.touched = layer;
            here = directory.parent;
        }
    }

    fn meta(
        &mut self,
        mode: u16,
        uid: u32,
        gid: u32,
        mtime: Time,
        xattrs: Xattrs,
    ) -> Result<Meta, Why> {
        let xattrs = judge_xattrs(xattrs)?;
        self.count_metadata(xattrs_bytes(&xattrs))?;
        Ok(Meta { mode, uid, gid, mtime, xattrs })
    }

    fn count_entry(&mut self) -> Result<(), Why> {
        self.entries += 1;
        match self.entries > self.limits.entries {
            true => Err(Why::TooManyEntries(self.limits.entries)),
            false => Ok(()),
        }
    }

    fn count_metadata(&mut self, bytes: usize) -> Result<(), Why> {
        self.metadata_bytes += bytes as u64;
        match self.metadata_bytes > self.limits.metadata_bytes {
            true => Err(Why::TooMuchMetadata(self.limits.metadata_bytes)),
            false => Ok(()),
        }
    }
}

/// What to do about a directory that is not there.
#[derive(Clone, Copy)]
enum Missing {
    Make,
    Stop,
}

/// The parts of a path from the root, judged; none for the root itself.
fn parts(path: &[u8]) -> Result<Vec<&[u8]>, Why> {
    if path.starts_with(b"/") {
        return Err(Why::Absolute);
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(Why::PathTooLong);
    }
    if path.contains(&0) {
        return Err(Why::ZeroByte);
    }
    let parts = path.split(|&byte| byte == b'/');
    let parts: Vec<&[u8]> = parts.filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&&b".."[..]) {
        return Err(Why::Climbs);
    }
    if parts.iter().any(|part| part.len() > MAX_NAME_BYTES) {
        return Err(Why::NameTooLong);
    }
    Ok(parts)
}

/// The node's kind; `None` for a directory, which may be there already.
fn kind(body: Body, data: Data) -> Result<Option<Kind>, Why> {
    Ok(Some(match body {
        // A hard link has no node of its own: `put_entry` has taken it out.
        Body::Directory | Body::HardLink(_) => return Ok(None),
        Body::File { .. } => Kind::File(data),
        Body::Symlink(target) => {
            if target.is_empty() || target.len() > MAX_PATH_BYTES || target.contains(&0) {
                return Err(Why::SymlinkTarget);
            }
            Kind::Symlink(target.into())
        }
        Body::Block(device) => Kind::Block(judge_device(device)?),
        Body::Character(device) => Kind::Character(judge_device(device)?),
        Body::Fifo => Kind::Fifo,
    }))
}

fn judge_device(device: Device) -> Result<Device, Why> {
    let Device { major, minor } = device;
    match major > MAX_DEVICE.major || minor > MAX_DEVICE.minor {
        true => Err(Why::Device { major, minor }),
        false => Ok(device),
    }
}

/// Keeps what Linux has a name space for. What an overlay file system would take for its own notes
/// (`trusted.overlay.redirect`) is not for an image to say.
pub(crate) fn judge_xattrs(xattrs: Xattrs) -> Result<Xattrs, Why> {
    const OVERLAY: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
    let mut kept = Xattrs::new();
    for (name, value) in xattrs {
        let Some((_, rest)) = split_xattr(&name) else { continue };
        if OVERLAY.iter().any(|space| name.starts_with(space)) {
            continue;
        }
        if rest.len() > MAX_NAME_BYTES || rest.contains(&0) || u16::try_from(value.len()).is_err() {
            return Err(Why::Xattr(shown(&name)));
        }
        kept.insert(name, value);
    }
    match xattrs_bytes(&kept) > MAX_XATTRS_BYTES {
        true => Err(Why::Xattrs),
        false => Ok(kept),
    }
}

#[cfg(test)]
mod tests;
