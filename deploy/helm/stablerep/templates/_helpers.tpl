{{/* Names, labels and the parts that the pods of gateway and generator share. */}}

{{- define "stablerep.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select: (dict "root" $ "component" "gateway") */}}
{{- define "stablerep.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "stablerep.labels" -}}
{{ include "stablerep.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: stablerep
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* An image's full name: (dict "root" $ "image" .Values.gateway.image) */}}
{{- define "stablerep.image" -}}
{{- $repository := .image.repository -}}
{{- $first := splitList "/" $repository | first -}}
{{- if and .root.Values.image.registry (not (or (contains "." $first) (contains ":" $first))) -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .root.Values.image.registry) $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.image.tag | default .root.Chart.AppVersion | toString) -}}
{{- end -}}
{{- end -}}

{{/* Names of the Secrets that the processes read. */}}
{{- define "stablerep.tokensSecret" -}}
{{- .Values.auth.tokensSecret | default (printf "%s-tokens" (include "stablerep.fullname" .)) -}}
{{- end -}}

{{- define "stablerep.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{- if .Values.tls.secret -}}{{- fail "tls.secret and tls.certManager.enabled exclude each other" -}}{{- end -}}
{{- printf "%s-tls" (include "stablerep.fullname" .) -}}
{{- else -}}
{{- .Values.tls.secret -}}
{{- end -}}
{{- end -}}

{{- define "stablerep.queueSecret" -}}
{{- .Values.queue.existingSecret | default (printf "%s-redis" (include "stablerep.fullname" .)) -}}
{{- end -}}

{{- define "stablerep.storeSecret" -}}
{{- if .Values.store.existingSecret -}}
{{- .Values.store.existingSecret -}}
{{- else if .Values.minio.enabled -}}
{{- printf "%s-minio" (include "stablerep.fullname" .) -}}
{{- end -}}
{{- end -}}

{{- define "stablerep.storeUrl" -}}
{{- if .Values.store.url -}}
{{- .Values.store.url -}}
{{- else if .Values.minio.enabled -}}
s3://stablerep
{{- else -}}
{{- fail "store.url is missing: name an s3://bucket/prefix, or set minio.enabled=true for a trial" -}}
{{- end -}}
{{- end -}}

{{- define "stablerep.storeEndpoint" -}}
{{- if .Values.store.endpoint -}}
{{- .Values.store.endpoint -}}
{{- else if .Values.minio.enabled -}}
{{- printf "http://%s-minio:9000" (include "stablerep.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* The settings file: the user's settings, overridden by the chart's. */}}
{{- define "stablerep.config.settings" -}}
{{- $gateway := dict "address" "0.0.0.0:50051" "metrics_address" "0.0.0.0:9100" -}}
{{- $generator := dict "address" "0.0.0.0:50052" "metrics_address" "0.0.0.0:9100" -}}
{{- $s3 := dict "endpoint" (include "stablerep.storeEndpoint" .) "region" .Values.store.region "addressing" .Values.store.addressing -}}
{{- if .Values.store.caSecret -}}{{- $_ := set $s3 "ca_file" "/etc/stablerep/store/ca.crt" -}}{{- end -}}
{{- $auth := dict "tokens_file" "/etc/stablerep/tokens/tokens.yaml" "anonymous" .Values.auth.anonymous -}}
{{- $chart := dict "store_url" (include "stablerep.storeUrl" .) "log_format" "json" "s3" $s3 "auth" $auth "gateway" $gateway "generator" $generator -}}
{{- if .Values.console.enabled -}}
{{- $name := include "stablerep.fullname" . -}}
{{- $console := dict "address" "0.0.0.0:8080" "gateway" (printf "%s-gateway:%d" $name (int .Values.gateway.service.port)) "worker" (printf "%s-generator:50052" $name) "key_file" "/etc/stablerep/console/key" "prefix" .Values.console.prefix "anonymous" (not (empty .Values.auth.anonymous)) -}}
{{- $_ := set $chart "console" $console -}}
{{- end -}}
{{- if include "stablerep.tlsSecret" . -}}
{{- $tls := dict "cert_file" "/etc/stablerep/tls/tls.crt" "key_file" "/etc/stablerep/tls/tls.key" -}}
{{- if .Values.tls.clientCertificates -}}{{- $_ := set $tls "client_ca_file" "/etc/stablerep/tls/ca.crt" -}}{{- end -}}
{{- $_ := set $chart "tls" $tls -}}
{{- else if .Values.tls.clientCertificates -}}
{{- fail "tls.clientCertificates needs tls.secret, or tls.certManager" -}}
{{- end -}}
{{- if .Values.trainer.enabled -}}
{{- $_ := set $gateway "launcher" "kubernetes" -}}
{{- $kubernetes := dict "namespace" .Release.Namespace "pod_template" "/etc/stablerep/trainer/pod.yaml" "owner" (printf "%s-trainer" (include "stablerep.fullname" .)) "gpu_resource" .Values.trainer.gpu.resource -}}
{{- $_ := set $chart "kubernetes" $kubernetes -}}
{{- end -}}
{{- mergeOverwrite (deepCopy .Values.settings) $chart | toYaml -}}
{{- end -}}

{{- define "stablerep.environment" -}}
- name: STABLEREP_CONFIG
  value: /etc/stablerep/settings/settings.yaml
{{- if or .Values.queue.existingSecret (not .Values.queue.url) }}
{{- if not (or .Values.queue.existingSecret .Values.redis.enabled) }}
{{- fail "queue.url is missing: name a redis:// URL, or set redis.enabled=true for a trial" }}
{{- end }}
- name: STABLEREP_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ include "stablerep.queueSecret" . }}, key: redis_url}
{{- else }}
- name: STABLEREP_REDIS_URL
  value: {{ .Values.queue.url | quote }}
{{- end }}
{{- with include "stablerep.storeSecret" . }}
- name: STABLEREP_S3__ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: access_key}
- name: STABLEREP_S3__SECRET_KEY
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: secret_key}
{{- if $.Values.store.sessionToken }}
- name: STABLEREP_S3__SESSION_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: session_token}
{{- end }}
{{- end }}
{{- end -}}

{{/* What a process that serves reads: its settings and the store's, tokens and certificates. */}}
{{- define "stablerep.mounts" -}}
- {name: tokens, mountPath: /etc/stablerep/tokens, readOnly: true}
{{- if include "stablerep.tlsSecret" . }}
- {name: tls, mountPath: /etc/stablerep/tls, readOnly: true}
{{- end }}
{{ include "stablerep.clientMounts" . }}
{{- end -}}

{{- define "stablerep.clientMounts" -}}
- {name: settings, mountPath: /etc/stablerep/settings, readOnly: true}
{{- if .Values.store.caSecret }}
- {name: store-ca, mountPath: /etc/stablerep/store, readOnly: true}
{{- end }}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "stablerep.volumes" -}}
- name: tokens
  secret:
    secretName: {{ include "stablerep.tokensSecret" . }}
    items: [{key: tokens.yaml, path: tokens.yaml}]
{{- with include "stablerep.tlsSecret" . }}
- name: tls
  secret: {secretName: {{ . }}}
{{- end }}
{{ include "stablerep.clientVolumes" . }}
{{- end -}}

{{- define "stablerep.clientVolumes" -}}
- name: settings
  configMap: {name: {{ include "stablerep.fullname" . }}}
{{- with .Values.store.caSecret }}
- name: store-ca
  secret: {secretName: {{ . }}}
{{- end }}
- name: tmp
  emptyDir: {sizeLimit: 8Gi}
{{- end -}}

{{/* What the restricted pod security level requires, with the numeric user that runs the pod; null: the cluster's choice. */}}
{{- define "stablerep.podSecurity" -}}
runAsNonRoot: true
{{- if not (kindIs "invalid" .) }}
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "stablerep.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where a pod may run: (dict "on" .Values.gateway) */}}
{{- define "stablerep.placement" -}}
{{- with .on.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .on.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .on.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .on.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .on.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .on.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Probes on the process's own HTTP port; the argument: the seconds that its start may take. */}}
{{- define "stablerep.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 5
  failureThreshold: {{ div . 5 }}
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 15
  timeoutSeconds: 5
  failureThreshold: 4
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}
