#!/bin/sh
# Runs all scripts of the seed, at every boot. A script that fails is noted, and the next one runs
# all the same. The file that ends the wait of the host is written last. The status is 0 in any
# case: Lima's fails cloud-final.service, which would end a scenario before it could say why.
set -eu

FAILED=/run/contract-failed
: >"$FAILED"

# Export each NAME=value line of a file. Values are taken literally.
load() {
	while IFS= read -r line; do
		case $line in
		[A-Za-z_]*=*) export "${line?}" ;;
		esac
	done <"$1"
}

attempt() {
	echo "contract: $*"
	"$@" || echo "$*" >>"$FAILED"
}

for file in lima.env param.env etc_environment; do
	load "$LIMA_CIDATA_MNT/$file"
done

for script in "$LIMA_CIDATA_MNT"/boot/*.sh "$LIMA_CIDATA_MNT"/provision.system/*; do
	attempt "$script"
done

# The scripts of the user run in the user's session, and know the parameters.
waited=0
until [ -S "/run/user/$LIMA_CIDATA_UID/systemd/private" ] || [ "$waited" -ge 300 ]; do
	sleep 1
	waited=$((waited + 1))
done
parameters=$(sed -n 's/^\(PARAM_[^=]*\)=.*/\1/p' "$LIMA_CIDATA_MNT/param.env" | paste -s -d , -)
for script in "$LIMA_CIDATA_MNT"/provision.user/*; do
	copy="$LIMA_CIDATA_HOME/.contract-script"
	install -m 755 -o "$LIMA_CIDATA_USER" "$script" "$copy"
	attempt sudo -iu "$LIMA_CIDATA_USER" "--preserve-env=$parameters" \
		"XDG_RUNTIME_DIR=/run/user/$LIMA_CIDATA_UID" "$copy"
	rm "$copy"
done

cp "$LIMA_CIDATA_MNT/meta-data" /run/lima-boot-done
