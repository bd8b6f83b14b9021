{{- define "torchship.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "torchship.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "torchship.labels" -}}
{{ include "torchship.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "torchship.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "torchship.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "torchship.scheme" -}}
{{- if .Values.tls.existingSecret -}}HTTPS{{- else -}}HTTP{{- end -}}
{{- end -}}

{{/* Several processes without a common store have no sequences: a step would reach any of them. */}}
{{- define "torchship.state" -}}
{{- if .Values.settings.state -}}
{{- .Values.settings.state -}}
{{- else if or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) (gt (int (default 1 .Values.settings.workers)) 1) -}}
none
{{- else -}}
memory
{{- end -}}
{{- end -}}

{{- define "torchship.check" -}}
{{- if not (or .Values.models.stores .Values.models.claim) -}}
{{- fail "no models: set models.stores to addresses such as [s3://bucket/models], or models.claim to the name of a PersistentVolumeClaim" -}}
{{- end -}}
{{- if and .Values.redis.url .Values.redis.existingSecret -}}
{{- fail "redis.url and redis.existingSecret are both set: expected one of them" -}}
{{- end -}}
{{- if and (or .Values.redis.url .Values.redis.existingSecret) .Values.settings.state -}}
{{- fail "redis and settings.state are both set: expected one of them" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- if and .Values.podMonitor.enabled .Values.apiKeys.existingSecret (not .Values.podMonitor.keySecret.name) -}}
{{- fail "podMonitor with apiKeys: set podMonitor.keySecret.name to a Secret with a key, since /metrics needs one" -}}
{{- end -}}
{{- end -}}
