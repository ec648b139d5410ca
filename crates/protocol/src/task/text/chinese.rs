//! The Chinese texts. Reasons come from the source, Kafka and the operating system, and stay in
//! English.

use std::fmt::Write as _;

use super::seconds;
use crate::{
    task::{Event, Requester, Summary},
    time::show_micros,
};

pub(super) fn text(event: &Event) -> String {
    match event {
        Event::Submitted { .. }
        | Event::Overlaps { .. }
        | Event::CancelRequested { .. }
        | Event::Paused { .. }
        | Event::Resumed { .. }
        | Event::RateChanged { .. } => of_request(event),
        Event::FieldsIgnored { fields, more } => {
            let mut text = format!("请求中有未知字段，已忽略：{}", fields.join("、"));
            and_more(&mut text, *more, "个");
            text
        }
        Event::Counted { device, name, total } => {
            format!("设备 {device}（{}）共有 {total} 行待发布", name.as_deref().unwrap_or("-"))
        }
        Event::Published { device, published, total } => format!("设备 {device} 已发布 {published} / {total} 行"),
        Event::CountMismatch { device, counted, read } => {
            format!("设备 {device} 统计时有 {counted} 行，读取时有 {read} 行：其间有数据写入")
        }
        Event::Note { device, note } => format!("设备 {device}：{note}"),
        Event::Quarantined { device, rows, first } => {
            let mut text = format!("设备 {device} 有 {rows} 行被隔离，没有发布：");
            for (index, row) in first.iter().enumerate() {
                let separator = if index == 0 { "" } else { "；" };
                let _ =
                    write!(text, "{separator}{}，主键 {}：{}", show_micros(row.position.time_us), row.position.key, row.reason);
            }
            and_more(&mut text, rows.saturating_sub(first.len() as u64), "行");
            text
        }
        Event::Waiting { device, published, reason, retry_ms } => {
            format!("设备 {device} 正在等待，没有丢失数据（{published} 行已确认）：{reason}。{:.1} 秒后重试", seconds(*retry_ms))
        }
        Event::Stalled { device, published, silent_seconds } => format!(
            "设备 {device} 正在等待，没有丢失数据（{published} 行已确认）：Kafka 已有 {silent_seconds} 秒没有确认，恢复后会自动继续"
        ),
        Event::TakenOver { device, published } => format!("设备 {device} 的工作进程中断，从第 {published} 行之后继续"),
        Event::Cancelled { device, published, worker_died: true, .. } => {
            format!("设备 {device} 已取消；其工作进程此前中断，已知发布 {published} 行，之后可能还有一些")
        }
        Event::Cancelled { device, published, unanswered, worker_died: false } => {
            let mut text = format!("设备 {device} 已取消，已发布 {published} 行");
            and_unanswered(&mut text, *unanswered);
            text
        }
        Event::Failed { device: None, reason, .. } => format!("有一个设备失败：{reason}"),
        Event::Failed { device: Some(device), name, reason } => {
            let name = name.as_ref().map(|name| format!("（{name}）")).unwrap_or_default();
            format!("设备 {device}{name}失败：{reason}")
        }
        Event::Finished(summary) => finished(summary),
        Event::Text { text, .. } => text.clone(),
    }
}

/// What was asked for, and by whom.
fn of_request(event: &Event) -> String {
    match event {
        Event::Submitted { by, devices, reason, rate, lowered_from, retry_of } => {
            let mut text = format!("任务由 {} 提交：{devices} 个设备", requester(by));
            if let Some(task) = retry_of {
                let _ = write!(text, "，重试任务 {task}");
            }
            if let Some(rate) = rate {
                let _ = write!(text, "，限速每秒 {rate} 行");
            }
            if let Some(lowered_from) = lowered_from {
                let _ = write!(text, "（原为 {lowered_from}，已超出现在的上限 limits.max_rate）");
            }
            if let Some(reason) = reason {
                let _ = write!(text, "；原因：{reason}");
            }
            text
        }
        Event::Overlaps { tasks, more } => {
            let tasks: Vec<_> = tasks.iter().map(ToString::to_string).collect();
            let mut text = format!("部分数据已在或将在该 topic 中重复出现：任务 {} 的设备和时间段与本任务重叠", tasks.join("、"));
            and_more(&mut text, *more, "个任务");
            text
        }
        Event::CancelRequested { by } => format!("{} 正在取消任务", requester(by)),
        Event::Paused { by } => format!("{} 暂停了任务；没有丢失数据，恢复后从当前位置继续", requester(by)),
        Event::Resumed { by } => format!("{} 恢复了任务", requester(by)),
        Event::RateChanged { by, rate: Some(rate) } => format!("{} 将限速改为每秒 {rate} 行", requester(by)),
        Event::RateChanged { by, rate: None } => format!("{} 取消了限速", requester(by)),
        _ => String::new(),
    }
}

fn finished(summary: &Summary) -> String {
    let Summary { devices, published, quarantined, unanswered, empty_devices, took_ms, failures } = summary;
    let all = devices.total();
    let mut text = format!(
        "任务结束：{} / {all} 个设备成功，发布 {published} 行，隔离 {quarantined} 行，用时 {:.3} 秒",
        devices.succeeded_devices,
        seconds(*took_ms)
    );
    if *empty_devices > 0 {
        let _ = write!(text, "；{empty_devices} 个设备在该时间段没有数据");
    }
    if *quarantined > 0 {
        text.push_str("；被隔离的行不在 topic 中，原因见上文");
    }
    if devices.cancelled_devices > 0 {
        let _ = write!(text, "；{} 个设备被取消", devices.cancelled_devices);
    }
    and_unanswered(&mut text, *unanswered);
    if devices.failed_devices == 0 {
        return text;
    }
    let _ = write!(text, "；{} 个设备失败：", devices.failed_devices);
    for (index, failure) in failures.iter().enumerate() {
        let separator = if index == 0 { "" } else { "；" };
        let _ = write!(text, "{separator}{}：{}", failure.device, failure.reason);
    }
    and_more(&mut text, devices.failed_devices.saturating_sub(failures.len() as u64), "个，见上文");
    text
}

fn requester(by: &Requester) -> String {
    format!("{}（{}）", by.token, by.address)
}

fn and_more(text: &mut String, more: u64, unit: &str) {
    if more > 0 {
        let _ = write!(text, "；另有 {more} {unit}");
    }
}

fn and_unanswered(text: &mut String, rows: u64) {
    if rows > 0 {
        let _ = write!(text, "；最多还有 {rows} 行已发往 Kafka 但未得到答复，可能仍会到达");
    }
}

#[cfg(test)]
mod tests {
    use uuid::uuid;

    use super::*;

    #[test]
    fn a_device_and_its_rows_are_named() {
        let device = uuid!("b34299aa-625e-4404-a580-fde1d7cbc3e8");
        let counted = Event::Counted { device, name: Some("静力水准仪06".to_owned()), total: 178 };
        assert_eq!(text(&counted), "设备 b34299aa-625e-4404-a580-fde1d7cbc3e8（静力水准仪06）共有 178 行待发布");
        let summary = Summary { published: 178, took_ms: 1_250, ..Summary::default() };
        assert_eq!(text(&Event::Finished(summary)), "任务结束：0 / 0 个设备成功，发布 178 行，隔离 0 行，用时 1.250 秒");
    }
}
