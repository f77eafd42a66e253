//! The host's files with the consistency that NFS made known as close-to-open: whoever opens a file
//! finds in it what others had written by then, though attributes are believed for a while.
//!
//! A guest's kernel that believes attributes opens a file with the size that it believes, and reads it to
//! its old end. FUSE has no way to tell it better along with the answer, but `ESTALE` makes it look the name
//! up once more, whatever it believes of that, and try again (`do_filp_open`, fs/namei.c). So an open is
//! held against what the guest was told last.
//!
//! It also says which pages a guest can keep: all, unless the file has changed since they were read.

use std::ffi::CStr;
use std::io;
use std::time::{Duration, SystemTime};

use fuse_backend_rs::abi::fuse_abi::{
    CreateIn, FsOptions, OpenOptions, ROOT_ID, stat64, statvfs64,
};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, GetxattrReply, ListxattrReply, SetattrValid,
    ZeroCopyReader, ZeroCopyWriter,
};
use fuse_backend_rs::passthrough::PassthroughFs;

use super::beliefs::{Beliefs, MAX_AGE, Opening, Stamp};
use super::sys;

/// Closing the file has nothing to tell the host (`FOPEN_NOFLUSH`, linux/fuse.h).
const NO_FLUSH: u32 = 1 << 5;

type Inode = u64;
type Handle = u64;
type Opened = (Option<Handle>, OpenOptions, Option<u32>);

/// The library's files, and what the guest believes of them.
pub(super) struct CloseToOpen {
    files: PassthroughFs,
    beliefs: Beliefs,
}

impl CloseToOpen {
    pub(super) fn new(files: PassthroughFs) -> Self {
        Self { files, beliefs: Beliefs::default() }
    }

    /// How long the guest may believe what it is about to be told.
    fn age(&self, inode: Inode, attributes: &stat64) -> Duration {
        if is_file(attributes) { self.beliefs.told(inode, Stamp::of(attributes)) } else { MAX_AGE }
    }

    fn told_below(&self, parent: Inode, entry: Entry) -> Entry {
        // A share that is a file is mounted by itself, and opened there without being looked up.
        if parent == ROOT_ID && is_file(&entry.attr) {
            self.beliefs.ask_for(entry.inode);
        }
        self.told(entry)
    }

    fn told(&self, entry: Entry) -> Entry {
        let attr_timeout = self.age(entry.inode, &entry.attr);
        Entry { attr_timeout, ..entry }
    }
}

fn is_file(attributes: &stat64) -> bool {
    attributes.st_mode & libc::S_IFMT == libc::S_IFREG
}

/// What the library does as it is.
macro_rules! as_it_is {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)?;)*) => {
        $(fn $name(&self, context: &Context, $($argument: $kind),*) $(-> $result)? {
            self.files.$name(context, $($argument),*)
        })*
    };
}

/// What comes back with attributes.
macro_rules! with_attributes {
    ($(fn $name:ident($($argument:ident: $kind:ty),*);)*) => {
        $(fn $name(&self, context: &Context, $($argument: $kind),*) -> io::Result<Entry> {
            self.files.$name(context, $($argument),*).map(|entry| self.told(entry))
        })*
    };
}

impl FileSystem for CloseToOpen {
    type Inode = Inode;
    type Handle = Handle;

    as_it_is! {
        fn readlink(inode: Inode) -> io::Result<Vec<u8>>;
        fn unlink(parent: Inode, name: &CStr) -> io::Result<()>;
        fn rmdir(parent: Inode, name: &CStr) -> io::Result<()>;
        fn rename(from: Inode, name: &CStr, to: Inode, new: &CStr, flags: u32) -> io::Result<()>;
        fn read(
            inode: Inode, handle: Handle, into: &mut dyn ZeroCopyWriter, size: u32, offset: u64,
            lock_owner: Option<u64>, flags: u32
        ) -> io::Result<usize>;
        fn flush(inode: Inode, handle: Handle, lock_owner: u64) -> io::Result<()>;
        fn fsync(inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn release(
            inode: Inode, flags: u32, handle: Handle, flush: bool, flock_release: bool,
            lock_owner: Option<u64>
        ) -> io::Result<()>;
        fn statfs(inode: Inode) -> io::Result<statvfs64>;
        fn setxattr(inode: Inode, name: &CStr, value: &[u8], flags: u32) -> io::Result<()>;
        fn getxattr(inode: Inode, name: &CStr, size: u32) -> io::Result<GetxattrReply>;
        fn listxattr(inode: Inode, size: u32) -> io::Result<ListxattrReply>;
        fn removexattr(inode: Inode, name: &CStr) -> io::Result<()>;
        fn opendir(inode: Inode, flags: u32) -> io::Result<(Option<Handle>, OpenOptions)>;
        fn readdir(
            inode: Inode, handle: Handle, size: u32, offset: u64,
            add_entry: &mut dyn FnMut(DirEntry) -> io::Result<usize>
        ) -> io::Result<()>;
        fn fsyncdir(inode: Inode, datasync: bool, handle: Handle) -> io::Result<()>;
        fn releasedir(inode: Inode, flags: u32, handle: Handle) -> io::Result<()>;
        fn access(inode: Inode, mask: u32) -> io::Result<()>;
        fn lseek(inode: Inode, handle: Handle, offset: u64, whence: u32) -> io::Result<u64>;
    }

    with_attributes! {
        fn symlink(target: &CStr, parent: Inode, name: &CStr);
        fn mknod(parent: Inode, name: &CStr, mode: u32, device: u32, umask: u32);
        fn mkdir(parent: Inode, name: &CStr, mode: u32, umask: u32);
        fn link(inode: Inode, parent: Inode, name: &CStr);
    }

    fn lookup(&self, context: &Context, parent: Inode, name: &CStr) -> io::Result<Entry> {
        let entry = self.files.lookup(context, parent, name)?;
        Ok(self.told_below(parent, entry))
    }

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.files.init(capable)
    }

    fn destroy(&self) {
        self.files.destroy();
    }

    fn forget(&self, context: &Context, inode: Inode, count: u64) {
        self.files.forget(context, inode, count);
        self.beliefs.forget(inode);
    }

    fn batch_forget(&self, context: &Context, all: Vec<(Inode, u64)>) {
        all.into_iter().for_each(|(inode, count)| self.forget(context, inode, count));
    }

    fn getattr(
        &self,
        context: &Context,
        inode: Inode,
        handle: Option<Handle>,
    ) -> io::Result<(stat64, Duration)> {
        let (attributes, _) = self.files.getattr(context, inode, handle)?;
        Ok((attributes, self.age(inode, &attributes)))
    }

    fn setattr(
        &self,
        context: &Context,
        inode: Inode,
        wanted: stat64,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let (attributes, _) = self.files.setattr(context, inode, wanted, handle, valid)?;
        Ok((attributes, self.age(inode, &attributes)))
    }

    fn open(
        &self,
        context: &Context,
        inode: Inode,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<Opened> {
        // Before it is opened, so that what changes between the two is seen by the next open.
        let (found, _) = self.files.getattr(context, inode, None)?;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let Opening::Known { keeps_pages } = self.beliefs.open(inode, Stamp::of(&found), now)
        else {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        };
        let (handle, mut options, backing) = self.files.open(context, inode, flags, fuse_flags)?;
        options.set(OpenOptions::KEEP_CACHE, keeps_pages);
        if flags & libc::O_ACCMODE.unsigned_abs() == libc::O_RDONLY.unsigned_abs() {
            options = sys::open_options(options.bits() | NO_FLUSH);
        }
        Ok((handle, options, backing))
    }

    fn create(
        &self,
        context: &Context,
        parent: Inode,
        name: &CStr,
        wanted: CreateIn,
    ) -> io::Result<(Entry, Option<Handle>, OpenOptions, Option<u32>)> {
        let (entry, handle, options, backing) = self.files.create(context, parent, name, wanted)?;
        Ok((self.told(entry), handle, options, backing))
    }

    fn write(
        &self,
        context: &Context,
        inode: Inode,
        handle: Handle,
        from: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        is_write_back: bool,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        let written = self.files.write(
            context,
            inode,
            handle,
            from,
            size,
            offset,
            lock_owner,
            is_write_back,
            flags,
            fuse_flags,
        );
        self.beliefs.written(inode);
        written
    }

    fn fallocate(
        &self,
        context: &Context,
        inode: Inode,
        handle: Handle,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let done = self.files.fallocate(context, inode, handle, mode, offset, length);
        self.beliefs.written(inode);
        done
    }

    fn readdirplus(
        &self,
        context: &Context,
        inode: Inode,
        handle: Handle,
        size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.files.readdirplus(context, inode, handle, size, offset, &mut |directory, entry| {
            let added = add_entry(directory, self.told_below(inode, entry));
            if !matches!(added, Ok(1..)) {
                self.beliefs.forget(entry.inode);
            }
            added
        })
    }
}
