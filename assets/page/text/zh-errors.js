// What the codes of errors mean, in Chinese. The details that the service gives are in English; they
// are shown beneath.

/** @type {Record<string, string>} */
export const zhErrors = {
  after_beyond_end: "超出日志末尾",
  body_too_large: "请求过大，请分成几次",
  busy: "同类请求过多，请稍后重试",
  ended_early: "中途停止，没有结论，请重试",
  forbidden: "您的令牌没有此权限",
  incomplete_body: "请求不完整",
  invalid_field: "字段有误",
  malformed_token: "令牌格式不对",
  method_not_allowed: "该接口不支持这种请求方法",
  missing_field: "缺少字段",
  missing_token: "没有令牌",
  nothing_to_retry: "没有需要重试的设备",
  not_finished: "任务尚未结束",
  not_json: "请求不是 JSON",
  origin_not_allowed: "不允许从该页面访问",
  queue_unavailable: "队列不可用，没有保存，请重试",
  repeated_field: "字段重复",
  request_id_conflict: "同一请求号的内容不一致",
  shutting_down: "服务正在停止",
  source_unavailable: "数据源不可用",
  unknown_field: "未知字段",
  unknown_instance: "没有该实例",
  unknown_path: "没有该接口",
  unknown_task: "没有该任务",
  unsupported_media_type: "请求不是 JSON",
  wrong_token: "令牌不对",
};
