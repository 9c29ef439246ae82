#!/busybox sh
# The machine's only script: loads the modules and runs the trials of the kinds of links that need them. The first serial
# line is the trials', the second one the kernel's.
/busybox mount -t devtmpfs none /dev
/busybox mount -t proc none /proc
/busybox mount -t sysfs none /sys
/busybox mount -t tmpfs none /run
/busybox mount -t tmpfs none /tmp
exec >/dev/ttyS0 2>&1
/busybox stty raw -echo </dev/ttyS0
for module in /modules/*.ko; do
    /busybox insmod "$module" || { echo "broken: $module is not loaded"; /busybox poweroff -f; }
done
echo "up after $(/busybox cut -d ' ' -f 1 /proc/uptime) s"
export PATH=/bin DRAGLINE_BINARIES=/bin DRAGLINE_NO_USERNS=1 RUST_BACKTRACE=0
/bin/links --include-ignored --color never --test-threads "$threads" kinds::
echo "ended $?"
/busybox poweroff -f
