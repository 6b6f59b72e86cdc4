#!/bin/sh
# check.sh FRAGMENT FINAL_CONFIG: list every line of FRAGMENT that FINAL_CONFIG does not honour; fail if there is one.
# "# CONFIG_X is not set", "CONFIG_X=n" and an absent symbol all mean "off".

if [ $# -ne 2 ] || [ ! -r "$1" ] || [ ! -r "$2" ]; then
	echo "usage: check.sh FRAGMENT FINAL_CONFIG" >&2
	exit 2
fi

awk '
	# Split a config line into name and value; return 0 for comments and blank lines.
	function parse(line) {
		if (match(line, /^# CONFIG_[A-Za-z0-9_]+ is not set$/)) {
			name = $2; value = "n"; return 1
		}
		if (match(line, /^CONFIG_[A-Za-z0-9_]+=/)) {
			name = substr(line, 1, RLENGTH - 1); value = substr(line, RLENGTH + 1); return 1
		}
		return 0
	}
	NR == FNR { if (parse($0)) final[name] = value; next }
	parse($0) {
		have = name in final ? final[name] : "n"
		if (name in wanted)
			printf "%s:%d: %s is named twice\n", FILENAME, FNR, name
		else if (have != value)
			printf "%s:%d: %s: wanted %s, got %s\n", FILENAME, FNR, name, value, have
		else
			good++
		wanted[name] = 1
		lines++
	}
	END {
		if (lines == 0) { print FILENAME ": no config lines"; exit 1 }
		exit good != lines
	}
' "$2" "$1" >&2
