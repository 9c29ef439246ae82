#!/busybox sh
# The machine's only script: mounts the disk and writes for as long as there is power. Chances and numbers come by the
# kernel's command line. The first serial line is the writer's, the second one the kernel's.
/busybox mount -t devtmpfs none /dev
/busybox mount -t proc none /proc
for module in /modules/*.ko; do
    /busybox insmod "$module" || exit 1
done
exec >/dev/ttyS0
/busybox stty raw -echo </dev/ttyS0
echo up
/busybox mount -t ext4 /dev/vda /disk || { echo "broken: the disk cannot be mounted"; exit 1; }

# Other traffic, so that much is unflushed at any time: pages that nobody syncs, writes past the page cache, and file
# names that come and go. Dirty pages go to the disk by themselves when they are so old, in hundredths of a second.
echo "$expire" >/proc/sys/vm/dirty_expire_centisecs
echo 10 >/proc/sys/vm/dirty_writeback_centisecs
while :; do
    /busybox dd if=/dev/zero of=/disk/direct bs=8k count=2000 conv=notrunc oflag=direct 2>/dev/null
done &
while :; do
    /busybox dd if=/dev/urandom of=/disk/noise bs=4k count=200 seek=$((RANDOM % 2048)) conv=notrunc 2>/dev/null
    echo "$RANDOM" >"/disk/name-$((RANDOM % 40))"
    /busybox mv "/disk/name-$((RANDOM % 40))" "/disk/name-$((RANDOM % 40))" 2>/dev/null
    /busybox rm -f "/disk/name-$((RANDOM % 40))"
done &

# The writer is killed a few times, so that what it left in memory meets the power cut too; 0 is never, else microseconds.
kills=3
while :; do
    echo opening
    /traffic write /disk/store "$seed" "$acknowledged" "$asked" 2>&1 &
    writer=$!
    if [ "$life" != 0 ] && [ "$kills" != 0 ]; then
        kills=$((kills - 1))
        /busybox usleep "$life"
        kill -9 "$writer"
    fi
    wait "$writer"
    [ $? = 137 ] || exit 1
done
