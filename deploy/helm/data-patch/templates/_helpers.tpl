{{- define "data-patch.labels" -}}
app.kubernetes.io/name: data-patch
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
