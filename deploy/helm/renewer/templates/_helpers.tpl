{{/* The name of everything: that of the release, with the chart's where it is not in it. */}}
{{- define "renewer.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "renewer.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "renewer.labels" -}}
{{ include "renewer.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The daemon's container; a native sidecar where nativeSidecar says so. */}}
{{- define "renewer.container" -}}
- name: renewer
  image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- if .Values.nativeSidecar }}
  restartPolicy: Always
  {{- else }}
  lifecycle:
    preStop:
      exec:
        command: [renewer, drain, --wait, {{ printf "%ds" (sub (int .Values.terminationGracePeriodSeconds) 18) | quote }}]
  {{- end }}
  ports:
    - {name: metrics, containerPort: 9464, protocol: TCP}
  startupProbe:
    httpGet: {path: /readyz, port: metrics}
    periodSeconds: 1
    failureThreshold: 120
  readinessProbe:
    httpGet: {path: /readyz, port: metrics}
    periodSeconds: 10
  livenessProbe:
    httpGet: {path: /livez, port: metrics}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  {{- with .Values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
  volumeMounts:
    - {name: renewer-config, mountPath: /etc/renewer, readOnly: true}
    {{- if .Values.secret }}
    - {name: renewer-secrets, mountPath: /run/secrets/renewer, readOnly: true}
    {{- end }}
    - {name: renewer-run, mountPath: /run/renewer}
    - {name: renewer-state, mountPath: /var/lib/renewer}
{{- end -}}

{{- define "renewer.volumes" -}}
- name: renewer-config
  configMap: {name: {{ include "renewer.fullname" . }}}
{{- if .Values.secret }}
- name: renewer-secrets
  secret: {secretName: {{ .Values.secret }}, defaultMode: 0440}
{{- end }}
- name: renewer-run
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: renewer-state
  emptyDir: {sizeLimit: {{ .Values.state.sizeLimit }}}
{{- end -}}
