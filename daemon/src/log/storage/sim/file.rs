//! A file on the simulated disk.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, MutexGuard};

use super::disk::{Change, Disk, power_is_off};
use super::{Call, Sim};
use crate::log::storage::{File, fill};

const ENOSPC: i32 = 28;
pub(super) const EIO: i32 = 5;

#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) sim: Sim,
    pub(super) run: u64,
    pub(super) inode: usize,
    pub(super) lock: Option<PathBuf>,
}

impl SimFile {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        self.alive(self.sim.disk())
    }

    fn change(&self, call: Call) -> io::Result<MutexGuard<'_, Disk>> {
        self.alive(self.sim.change(call))
    }

    fn alive<'a>(&self, disk: MutexGuard<'a, Disk>) -> io::Result<MutexGuard<'a, Disk>> {
        if disk.run == self.run { Ok(disk) } else { Err(power_is_off()) }
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let Some(lock) = &self.lock else { return };
        let mut disk = self.sim.disk();
        if disk.run == self.run {
            disk.locked.retain(|locked| locked != lock);
        }
    }
}

impl File for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let disk = &mut *self.change(Call::Write)?;
        disk.largest.1 = disk.largest.1.max(bytes.len());
        let dark = disk.burn();
        let free = disk.capacity.saturating_sub(disk.used());
        let offset = offset as usize;
        let len = disk.inodes[self.inode].cache.len();
        let growth = (offset + bytes.len()).saturating_sub(len);
        // The part that still fits, or that was written when the power went, is in the file.
        let mut written = bytes.len() - growth.saturating_sub(free).min(bytes.len());
        if dark.is_err() {
            written = disk.rng.usize(..=written);
        }
        if written > 0 {
            disk.inode_mut(self.inode).write(offset, &bytes[..written]);
        }
        dark?;
        if written == bytes.len() { Ok(()) } else { Err(io::Error::from_raw_os_error(ENOSPC)) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let disk = &mut *self.change(Call::Sync)?;
        disk.burn()?;
        let failed = disk.failing_syncs > 0;
        let inode = Arc::make_mut(&mut disk.inodes[self.inode]);
        if failed {
            disk.failing_syncs -= 1;
            inode.fail(&mut disk.rng);
            return Err(io::Error::from_raw_os_error(EIO));
        }
        inode.settle(&mut disk.rng, 2.0, &[]);
        Ok(())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.disk()?;
        disk.largest.0 = disk.largest.0.max(buffer.len());
        let end = offset + buffer.len() as u64;
        let unreadable = disk.inodes[self.inode].unreadable.as_ref();
        let bad = unreadable.is_some_and(|bad| offset < bad.end && end > bad.start);
        if bad || disk.failing_reads > 0 {
            disk.failing_reads = disk.failing_reads.saturating_sub(u32::from(!bad));
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let Disk { rng, inodes, .. } = &mut *disk;
        fill(buffer, offset, |buffer, offset| {
            let rest = inodes[self.inode].cache.get(offset as usize..).unwrap_or_default();
            let mut read = rest.len().min(buffer.len());
            // A signal came in between.
            match rng.u8(..64) {
                0 => read = rng.usize(..=read).max(1).min(read),
                1 => return Err(io::ErrorKind::Interrupted.into()),
                _ => {}
            }
            buffer[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk()?.inodes[self.inode].cache.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut disk = self.change(Call::Truncate)?;
        disk.burn()?;
        let inode = disk.inode_mut(self.inode);
        inode.cache.truncate(len as usize);
        inode.unsynced.push(Change::Truncate(len as usize));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let disk = &mut *self.change(Call::Allocate)?;
        disk.burn()?;
        let free = disk.capacity.saturating_sub(disk.used());
        let len = len as usize;
        let has = disk.inodes[self.inode].cache.len();
        // Of what does not fit, a part is taken.
        let fits = len.min(has.max(len.min(has.saturating_add(free))));
        let inode = disk.inode_mut(self.inode);
        inode.cache.resize(has.max(fits), 0);
        inode.unsynced.push(Change::Allocate(fits));
        if fits == len { Ok(()) } else { Err(io::Error::from_raw_os_error(ENOSPC)) }
    }
}
