//! Opens devices in groups: one look-up in the database of devices and one search serve all that
//! wait, and reading them together costs the store half as much a row as one after the other.

use std::collections::{HashMap, HashSet};

use super::{Cluster, member::Member, reader::Reader};
use crate::source::{Device, Source, SourceError, backend::CatalogBackend as _, pending::PendingDevice};

/// Maximum devices of a group.
const MAX_DEVICES: usize = 256;

/// Opens the next group of waiting devices, unless another task has taken them.
pub async fn next_group(source: Source, cluster: Cluster) {
    // Lets tasks that open devices at the same moment queue theirs first.
    tokio::task::yield_now().await;
    if cluster.pending.is_empty() {
        return;
    }
    // While connections are in use, the group grows.
    let Ok(permit) = source.shared.pages.acquire().await else { return };
    let pending = cluster.pending.take(MAX_DEVICES);
    let Some(thing) = pending.first().map(|pending| pending.thing) else { return };
    let found = look_up(&source, thing, &pending).await;
    drop(permit);
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            for pending in pending {
                pending.fail(&error);
            }
            return;
        }
    };
    let (mut group, mut seen) = (Vec::new(), HashSet::new());
    for mut pending in pending {
        let device = pending.selection.device;
        if !pending.found(found.get(&device).cloned()) {
            continue;
        }
        let Some(sender) = pending.sender.take() else { continue };
        let member = Member::new(pending.selection, sender);
        if seen.insert(device) {
            group.push(member);
        } else {
            // Two tasks have opened it.
            tokio::spawn(Reader::new(&source, &cluster, vec![member]).run(false));
        }
    }
    Box::pin(Reader::new(&source, &cluster, group).run(false)).await;
}

async fn look_up(
    source: &Source,
    thing: uuid::Uuid,
    pending: &[PendingDevice],
) -> Result<HashMap<uuid::Uuid, Device>, SourceError> {
    let devices: Vec<_> = pending.iter().map(|pending| pending.selection.device).collect();
    let look_up = async {
        let mapping = source.mapping().await?;
        source.shared.catalog.look_up(&mapping, thing, &devices).await
    };
    source.with_timeout("looking up devices", source.shared.config.timeout_seconds, look_up).await
}
