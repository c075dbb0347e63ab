//! `wasi:filesystem`: a write below a folder that is granted for reading is told. It is `wasmtime_wasi` that refuses it, by
//! itself; so what could write is called through here.

use std::fs;
use std::os::fd::AsRawFd;

use wasmtime::component::{Linker, Resource};
use wasmtime::{Result, StoreContextMut};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, ErrorCode, HostDescriptor, NewTimestamp, OpenFlags, PathFlags,
};

use crate::config::DirGrant;
use crate::sandbox::grants::Grant;
use crate::sandbox::state::{Outside, State};

/// As `wasmtime_wasi` names it.
const TYPES: &str = "wasi:filesystem/types@0.2.12";

type Handle = Resource<Descriptor>;

/// Takes the place of a method that writes, whatever its arguments are. What it needs to write to stands first.
macro_rules! writes {
    ($types:ident, $name:literal, $method:ident, [$($written:ident),+], ($folder:ident, $($argument:ident: $type:ty),+)) => {
        $types.func_wrap_async(
            concat!("[method]descriptor.", $name),
            |mut store: StoreContextMut<'_, State>, ($folder, $($argument),+): (Handle, $($type),+)| {
                Box::new(async move {
                    let state = store.data_mut();
                    $(tell_if_read_only(state, &$written);)+
                    answer(state.filesystem().$method($folder, $($argument),+).await)
                })
            },
        )?;
    };
}

pub(super) fn add_to_linker(linker: &mut Linker<State>) -> Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store: StoreContextMut<'_, State>,
         (folder, at, path, how, flags): (Handle, PathFlags, String, OpenFlags, DescriptorFlags)| {
            Box::new(async move {
                let state = store.data_mut();
                if how.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE) || flags.contains(DescriptorFlags::WRITE) {
                    tell_if_read_only(state, &folder);
                }
                answer(state.filesystem().open_at(folder, at, path, how, flags).await)
            })
        },
    )?;
    writes!(types, "create-directory-at", create_directory_at, [folder], (folder, path: String));
    writes!(types, "remove-directory-at", remove_directory_at, [folder], (folder, path: String));
    writes!(types, "unlink-file-at", unlink_file_at, [folder], (folder, path: String));
    writes!(types, "symlink-at", symlink_at, [folder], (folder, to: String, path: String));
    writes!(types, "link-at", link_at, [folder, other], (folder, at: PathFlags, from: String, other: Handle, to: String));
    writes!(types, "rename-at", rename_at, [folder, other], (folder, from: String, other: Handle, to: String));
    // Of what is open already, for reading.
    writes!(types, "set-size", set_size, [file], (file, bytes: u64));
    writes!(types, "set-times", set_times, [file], (file, accessed: NewTimestamp, modified: NewTimestamp));
    writes!(
        types,
        "set-times-at",
        set_times_at,
        [folder],
        (folder, at: PathFlags, path: String, accessed: NewTimestamp, modified: NewTimestamp)
    );
    Ok(())
}

/// The error in its place, unless it is the guest's end.
fn answer<T>(answer: FsResult<T>) -> Result<(Result<T, ErrorCode>,)> {
    match answer {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

/// Tells of a write that is about to be refused.
fn tell_if_read_only(state: &State, handle: &Handle) {
    let (permissions, file) = match state.handles.get(handle) {
        Ok(Descriptor::Dir(folder)) => (&folder.perms, &folder.dir),
        Ok(Descriptor::File(file)) => (&file.perms, &file.file),
        Err(_) => return,
    };
    if !permissions.write_not_permitted() {
        return;
    }
    // What was opened below the granted folder does not know which that was; Linux does.
    let Ok(path) = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) else { return };
    let Outside { settings, access, .. } = &state.outside;
    let granted = settings.grants.dirs.iter().filter(|dir| !dir.write);
    let above = granted.filter(|dir| dir.host.canonicalize().is_ok_and(|host| path.starts_with(host)));
    if let Some(DirGrant { guest, .. }) = above.max_by_key(|dir| dir.host.components().count()) {
        let what = format!("a write below {guest} was refused: it is granted for reading");
        access.tell_denied(settings, Grant::Dirs, guest, &what);
    }
}
