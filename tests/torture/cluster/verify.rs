//! A node is frozen while a verification reads from it: the next leader has the rows too.

use std::time::Instant;

use super::{nodes, nodes::Outage};
use crate::{outage::verify::Published, table::TestResult};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; make torture"]
async fn a_verification_goes_on_at_the_next_leader() {
    let what = "cluster: a leader frozen while a verification reads";
    let Some(nodes) = nodes(what).await else { return };
    let published = Published::to(nodes.topic().await).await;
    let leader = nodes.busy_leader(&published.topic);
    let lines = published.verify_partly().await;
    let outage = Outage::start("freeze", leader).await;
    let started = Instant::now();
    published.assert_complete(lines).await;
    let note = format!("complete {:.0} s later", started.elapsed().as_secs_f64());
    outage.end().await;
    nodes.wait_until_in_sync(&published.topic).await;
    published.stop().await;
    TestResult { what, times: 1, note, ..TestResult::default() }.write();
}
