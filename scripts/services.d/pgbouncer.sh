# shellcheck shell=bash
# PgBouncer, which tests start themselves (tests/it/support/bouncer.rs). Sourced by scripts/services.

# pgbouncer_ready: installs it where it is missing and may be installed. Only its own tests need it.
pgbouncer_ready() {
  command -v pgbouncer >/dev/null || [[ -x /usr/sbin/pgbouncer ]] && return 0
  if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    loud 'pgbouncer: not installed; the tests behind it fail. Install it (Debian: apt-get install pgbouncer).'
    return 0
  fi
  # The package would start a service of its own; policy-rc.d is how Debian is told not to.
  local policy=/usr/sbin/policy-rc.d ours=
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && ours=yes
  fi
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends pgbouncer; } \
    >"$services/pgbouncer-install.log" 2>&1 || loud "pgbouncer: apt-get could not install it, see $services/pgbouncer-install.log"
  [[ -z $ours ]] || rm -f "$policy"
}
