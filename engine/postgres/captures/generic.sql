-- Generic records: the extension bloom.
create extension bloom; select setseed(0.20);
create table flower(a int, b int, c text); create index flower_ab on flower using bloom(a, b) with (length = 80, col1 = 2, col2 = 4); create index flower_abc on flower using bloom(a, b, c);
insert into flower select i, i % 100, md5(i::text) from generate_series(1, 6000) i;
create index flower_later on flower using bloom(b, c) with (length = 400);
delete from flower where a % 3 = 0; vacuum flower; insert into flower select i, i % 50, 'c' from generate_series(1, 4000) i;
update flower set b = b + 1 where a % 10 = 0; vacuum flower; delete from flower where a > 500; vacuum flower; insert into flower select i, i, i::text from generate_series(1, 3000) i;
delete from flower; vacuum flower; insert into flower values (1, 1, 'one'); vacuum flower; truncate flower; insert into flower select i, i, i::text from generate_series(1, 500) i;
create unlogged table fleeting(a int); create index fleeting_a on fleeting using bloom(a); insert into fleeting values (1);
checkpoint; insert into flower select i, i, i::text from generate_series(1, 700) i; delete from flower where a < 300; vacuum flower;
