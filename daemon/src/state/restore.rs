//! What the database takes over from the checkpoint.

use std::collections::BTreeSet;
use std::path::Path;

use tracing::{error, info};

use super::StateError;
use super::checkpoint::{self, Item, Items};
use super::store::{Filling, Store};
use crate::log::Storage;

/// Takes over every tree of the checkpoint that is ahead of the store's, or that stands at the same LSN
/// with another content: where there are control records and no events, either may be the newer one, and
/// the log has what came after the checkpoint.
pub(super) fn restore(storage: &dyn Storage, dir: &Path, store: &Store) -> Result<(), StateError> {
    let directory = |error| StateError::Directory { dir: dir.to_owned(), error };
    let Some(items) = checkpoint::newest(storage, dir).map_err(directory)? else { return Ok(()) };
    let wanted = wanted(items, store)?;
    let Some(items) = checkpoint::newest(storage, dir).map_err(directory)? else { return Ok(()) };
    let mut current: Option<(Filling, u64)> = None;
    for item in items {
        match item {
            Ok(Item::Tree(name, version)) => {
                if let Some((filling, version)) = current.take() {
                    filling.finish(version)?;
                }
                if wanted.contains(&name) {
                    info!(tree = name, version, "restored from the checkpoint");
                    current = Some((store.table(&name)?.refill()?, version));
                }
            }
            Ok(Item::Entry(key, value)) => {
                if let Some((filling, _)) = &mut current {
                    filling.put(key.0.into_owned(), value.0.into_owned())?;
                }
            }
            Err(why) => {
                // Only a checkpoint that was written so; the trees so far are right, and this one
                // counts as new.
                error!(%why, "the checkpoint cannot be read to its end");
                return Ok(());
            }
        }
    }
    if let Some((filling, version)) = current {
        filling.finish(version)?;
    }
    Ok(())
}

/// Which trees of the checkpoint are to be taken over.
fn wanted(items: Items, store: &Store) -> Result<BTreeSet<String>, StateError> {
    let mut heads: Vec<(String, u64, u32)> = Vec::new();
    for item in items.map_while(Result::ok) {
        match (item, heads.last_mut()) {
            (Item::Tree(name, version), _) => heads.push((name, version, 0)),
            (Item::Entry(key, value), Some((_, _, digest))) => {
                *digest = digest_of(*digest, &key.0, &value.0);
            }
            (Item::Entry(..), None) => {}
        }
    }
    let mut wanted = BTreeSet::new();
    for (name, version, digest) in heads {
        let table = store.table(&name)?;
        let takes = match table.version()? {
            Some(mine) if mine == version => {
                let mut of_mine = 0;
                table.scan(|key, value| of_mine = digest_of(of_mine, key, value))?;
                of_mine != digest
            }
            mine => mine < Some(version),
        };
        if takes {
            wanted.insert(name);
        }
    }
    Ok(wanted)
}

/// A checksum over entries, one after the other.
fn digest_of(digest: u32, key: &[u8], value: &[u8]) -> u32 {
    let digest = crc32c::crc32c_append(digest, &(key.len() as u64).to_le_bytes());
    let digest = crc32c::crc32c_append(digest, key);
    let digest = crc32c::crc32c_append(digest, &(value.len() as u64).to_le_bytes());
    crc32c::crc32c_append(digest, value)
}
