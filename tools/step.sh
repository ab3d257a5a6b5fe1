#!/bin/sh
# Run a command as a named step and print how long it took: tools/step.sh NAME COMMAND [ARGUMENT ...]
# The exit status is the command's.
name=$1
shift
printf '\n== %s ==\n' "$name"
start=$(date +%s)
status=0
"$@" || status=$?
seconds=$(($(date +%s) - start))
if [ "$status" -eq 0 ]; then
  printf '%s: %s s\n' "$name" "$seconds"
else
  printf '%s: failed after %s s (exit status %s)\n' "$name" "$seconds" "$status" >&2
fi
exit "$status"
