//! Files by their paths, in memory: what the layers of an image come to.

use std::collections::BTreeMap;

/// A node's place in the tree.
pub type Index = usize;

/// The root's.
pub const ROOT: Index = 0;

/// More than any image has, and what fits into memory.
const MOST_NODES: usize = 4 << 20;
/// Bytes of names, links' targets and attributes that are kept in memory: far more than any image has.
pub const MOST_KEPT: usize = 1 << 30;
/// What keeping a name, or an attribute, takes besides its bytes, about.
const KEPT_WITH_EACH: usize = 64;
/// What the map of a folder takes in which there is anything, about.
const KEPT_WITH_FOLDER: usize = 400;
/// As many links as Linux follows in a path.
const MOST_LINKS: u32 = 40;
/// Of a path, and of a name in it (limits.h).
const MOST_PATH: usize = 4096;
const MOST_NAME: usize = 255;

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What is in it, by name.
    Folder(BTreeMap<Vec<u8>, Index>),
    /// Where its content is in the image, and how long it is.
    File {
        /// The first block.
        block: u32,
        /// Bytes.
        size: u64,
    },
    /// Where it leads.
    Link(Vec<u8>),
    /// A character device's numbers.
    Character(u32, u32),
    /// A block device's.
    Block(u32, u32),
    /// A pipe with a name.
    Fifo,
}

/// Whose a node is, and the like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permissions.
    pub mode: u16,
    /// User and group.
    pub owner: (u32, u32),
    /// Seconds since 1970.
    pub modified: i64,
    /// Extended attributes, by their whole names.
    pub extended: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    fn kept(&self) -> usize {
        let of_each =
            |(name, value): &(Vec<u8>, Vec<u8>)| name.len() + value.len() + KEPT_WITH_EACH;
        self.extended.iter().map(of_each).sum()
    }
}

/// A file, folder, link or device.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Whose, and the like.
    pub attributes: Attributes,
    /// Names that lead to it.
    pub links: u32,
    /// The last layer that has it.
    pub layer: u32,
}

impl Node {
    /// Bytes that it keeps besides those that each node has.
    fn kept(&self) -> usize {
        let own = match &self.kind {
            Kind::Folder(_) => KEPT_WITH_FOLDER,
            Kind::Link(target) => target.len(),
            _ => 0,
        };
        own + self.attributes.kept()
    }
}

fn kept_of_name(name: &[u8]) -> usize {
    name.len() + KEPT_WITH_EACH
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    /// Files that nothing leads to any more: their places in the image.
    dead: Vec<(u32, u64)>,
    /// Bytes that may still be kept.
    room: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Tree::of_at_most(MOST_KEPT)
    }
}

impl Tree {
    /// With the root alone, for no more than these bytes of names, links' targets and attributes.
    pub fn of_at_most(room: usize) -> Self {
        let attributes = Attributes {
            mode: 0o755,
            ..Attributes::default()
        };
        let root = Node {
            kind: Kind::Folder(BTreeMap::new()),
            attributes,
            links: 1,
            layer: 0,
        };
        Tree {
            nodes: vec![root],
            dead: Vec::new(),
            room: room.saturating_sub(KEPT_WITH_FOLDER),
        }
    }

    /// The node there.
    pub fn node(&self, index: Index) -> &Node {
        &self.nodes[index]
    }

    /// What is in a folder; nothing, in anything else.
    pub fn children(&self, index: Index) -> impl Iterator<Item = (&[u8], Index)> {
        let children = match &self.nodes[index].kind {
            Kind::Folder(children) => Some(children),
            _ => None,
        };
        let all = children.into_iter().flatten();
        all.map(|(name, index)| (&**name, *index))
    }

    /// The places of files that are gone, once.
    pub fn take_dead(&mut self) -> Vec<(u32, u64)> {
        std::mem::take(&mut self.dead)
    }

    /// The node at a path; a link at its end is not followed.
    pub fn find(&self, path: &[u8]) -> Option<Index> {
        let (folder, name) = split(path)?;
        let folder = self.walk(folder).ok()??;
        if name.is_empty() {
            return Some(folder);
        }
        self.child(folder, name)
    }

    fn child(&self, folder: Index, name: &[u8]) -> Option<Index> {
        match &self.nodes[folder].kind {
            Kind::Folder(children) => children.get(name).copied(),
            _ => None,
        }
    }

    /// The folder at a path, all links followed, none of them out of the root. `None` where it isn't there.
    fn walk(&self, path: &[u8]) -> Result<Option<Index>, &'static str> {
        let mut links = 0;
        let mut way = vec![ROOT];
        // What is still to be walked, the last first.
        let mut rest: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
        while let Some(name) = rest.pop() {
            if name == b".." {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            let here = way.last().copied().unwrap_or(ROOT);
            let Some(next) = self.child(here, &name) else {
                return Ok(None);
            };
            match &self.nodes[next].kind {
                Kind::Folder(_) => way.push(next),
                Kind::Link(target) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err("its path has too many links");
                    }
                    if target.starts_with(b"/") {
                        way.truncate(1);
                    }
                    rest.extend(parts(target).rev().map(<[u8]>::to_vec));
                }
                _ => return Err("its path leads through what is no folder"),
            }
        }
        Ok(way.last().copied())
    }

    /// The folder at a path, made where it isn't there.
    fn folder(&mut self, path: &[u8], layer: u32) -> Result<Index, &'static str> {
        if let Some(found) = self.walk(path)? {
            return Ok(found);
        }
        // From the longest part that is there. What it lacks has no links in it.
        let mut walked: Vec<u8> = Vec::new();
        let mut here = ROOT;
        for name in parts(path) {
            walked.push(b'/');
            walked.extend(name);
            here = match self.walk(&walked)? {
                Some(found) => found,
                None if name == b".." => return Err("its path leads out of what isn't there"),
                // A link to nowhere is in the way.
                None if self.child(here, name).is_some() => {
                    return Err("its path leads through a link to nowhere");
                }
                None => {
                    let attributes = Attributes {
                        mode: 0o755,
                        ..Attributes::default()
                    };
                    let kind = Kind::Folder(BTreeMap::new());
                    let new = self.add(kind, attributes, layer)?;
                    self.enter(here, name, new)?;
                    new
                }
            };
        }
        Ok(here)
    }

    fn add(
        &mut self,
        kind: Kind,
        attributes: Attributes,
        layer: u32,
    ) -> Result<Index, &'static str> {
        if self.nodes.len() >= MOST_NODES {
            return Err("there are more than 4 million files");
        }
        let node = Node {
            kind,
            attributes,
            links: 0,
            layer,
        };
        self.keep(node.kept())?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn keep(&mut self, bytes: usize) -> Result<(), &'static str> {
        let left = self.room.checked_sub(bytes);
        self.room = left.ok_or("the names, links and attributes up to it are longer than 1 GiB")?;
        Ok(())
    }

    /// The folder has no such name.
    fn enter(&mut self, folder: Index, name: &[u8], node: Index) -> Result<(), &'static str> {
        self.keep(kept_of_name(name))?;
        if let Kind::Folder(children) = &mut self.nodes[folder].kind {
            children.insert(name.to_vec(), node);
            self.nodes[node].links += 1;
        }
        Ok(())
    }

    /// Puts something at a path, in place of what was there; a folder goes over a folder, whose content stays.
    ///
    /// # Errors
    ///
    /// The path is none that can be made.
    pub fn put(
        &mut self,
        path: &[u8],
        kind: Kind,
        attributes: Attributes,
        layer: u32,
    ) -> Result<(), &'static str> {
        let (folder, name) = split(path).ok_or("its path is too long, or ends in ..")?;
        let is_folder = matches!(kind, Kind::Folder(_));
        let place = match name {
            b"" if is_folder => Some(ROOT),
            b"" => return Err("the root can only be a folder"),
            _ => {
                let folder = self.folder(folder, layer)?;
                let there = self.child(folder, name);
                let both =
                    |index: &Index| is_folder && matches!(self.nodes[*index].kind, Kind::Folder(_));
                match there.filter(both) {
                    Some(there) => Some(there),
                    None => {
                        let new = self.add(kind, attributes.clone(), layer)?;
                        self.remove_from(folder, name);
                        self.enter(folder, name, new)?;
                        None
                    }
                }
            }
        };
        if let Some(place) = place {
            self.room += self.nodes[place].attributes.kept();
            self.keep(attributes.kept())?;
            self.nodes[place].attributes = attributes;
            self.nodes[place].layer = layer;
        }
        Ok(())
    }

    /// Another name for a file.
    ///
    /// # Errors
    ///
    /// There is no such file, or the path can't be made.
    pub fn link(&mut self, path: &[u8], to: &[u8], layer: u32) -> Result<(), &'static str> {
        let target = self
            .find(to)
            .ok_or("is a link to a file that isn't there")?;
        if matches!(self.nodes[target].kind, Kind::Folder(_)) {
            return Err("is another name of a folder");
        }
        let (folder, name) = split(path).ok_or("its path is too long, or ends in ..")?;
        if name.is_empty() {
            return Err("the root can only be a folder");
        }
        let folder = self.folder(folder, layer)?;
        if self.child(folder, name) != Some(target) {
            // First, or its last name might go.
            self.nodes[target].links += 1;
            self.remove_from(folder, name);
            self.enter(folder, name, target)?;
            self.nodes[target].links -= 1;
        }
        self.nodes[target].layer = layer;
        Ok(())
    }

    /// Takes away what earlier layers have at a path.
    ///
    /// # Errors
    ///
    /// The path leads nowhere.
    pub fn whiteout(&mut self, folder: &[u8], name: &[u8], layer: u32) -> Result<(), &'static str> {
        if let Some(folder) = self.walk(folder)?
            && let Some(there) = self.child(folder, name)
        {
            if self.nodes[there].layer < layer {
                self.remove_from(folder, name);
            } else {
                self.prune(there, layer, 0);
            }
        }
        Ok(())
    }

    /// Takes away what earlier layers have in a folder.
    ///
    /// # Errors
    ///
    /// The path leads nowhere.
    pub fn opaque(&mut self, folder: &[u8], layer: u32) -> Result<(), &'static str> {
        let folder = self.folder(folder, layer)?;
        self.prune(folder, layer, 0);
        Ok(())
    }

    /// Leaves what the layer has itself, and the folders on the way to it. Whether there is such.
    fn prune(&mut self, index: Index, layer: u32, depth: usize) -> bool {
        let own = self.nodes[index].layer == layer;
        let Kind::Folder(children) = &self.nodes[index].kind else {
            return own;
        };
        let children: Vec<_> = children.iter().map(|(n, i)| (n.clone(), *i)).collect();
        let mut any = own;
        for (name, child) in children {
            // Deeper than paths are there is nothing.
            match depth < MOST_PATH && self.prune(child, layer, depth + 1) {
                true => any = true,
                false => self.remove_from(index, &name),
            }
        }
        any
    }

    fn remove_from(&mut self, folder: Index, name: &[u8]) {
        let Kind::Folder(children) = &mut self.nodes[folder].kind else {
            return;
        };
        let Some(gone) = children.remove(name) else {
            return;
        };
        self.room += kept_of_name(name);
        let mut gone = vec![gone];
        while let Some(index) = gone.pop() {
            self.nodes[index].links -= 1;
            if self.nodes[index].links == 0 {
                gone.extend(self.bury(index));
            }
        }
    }

    /// Takes what a node keeps that nothing leads to any more; what was in it.
    fn bury(&mut self, index: Index) -> Vec<Index> {
        let node = &mut self.nodes[index];
        self.room += node.kept();
        node.attributes = Attributes::default();
        match std::mem::replace(&mut node.kind, Kind::Fifo) {
            Kind::Folder(children) => {
                self.room += children
                    .keys()
                    .map(|name| kept_of_name(name))
                    .sum::<usize>();
                return children.into_values().collect();
            }
            Kind::File { block, size } if size > 0 => self.dead.push((block, size)),
            _ => {}
        }
        Vec::new()
    }

    /// The room that is left, with what everything keeps that there is a way to, counted anew: always the same.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn whole_room(&self) -> usize {
        let mut kept = self.room;
        let mut seen = std::collections::HashSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(index) = open.pop() {
            kept += self.nodes[index].kept();
            for (name, child) in self.children(index) {
                kept += kept_of_name(name);
                if seen.insert(child) {
                    open.push(child);
                }
            }
        }
        kept
    }
}

/// The names of a path, without those that stay where they are.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let parts = path.split(|byte| *byte == b'/');
    parts.filter(|part| !part.is_empty() && *part != b".")
}

/// The path of the folder, and the name in it: empty for the root. `None` for what is no name.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() > MOST_PATH || path.contains(&0) || parts(path).any(|n| n.len() > MOST_NAME) {
        return None;
    }
    let Some(name) = parts(path).next_back() else {
        return Some((b"", b""));
    };
    if name == b".." {
        return None;
    }
    // Where the name begins: behind it there are only slashes and dots.
    let start = name.as_ptr() as usize - path.as_ptr() as usize;
    Some((&path[..start], name))
}
